"""The loop: take a batch, train a step, advance the state, do what is due, stop if asked."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout, RankCoordinates
from bigtrain.data.batches import TrainingData
from bigtrain.data.microbatch import Batch
from bigtrain.data.sources import Source
from bigtrain.engine.engine import Engine
from bigtrain.parallel import groups
from bigtrain.parallel.device import synchronize
from bigtrain.parallel.schedule import ForwardStep, Report
from bigtrain.train.forward import make_forward_step
from bigtrain.train.guard import Guard
from bigtrain.train.learning_rate import learning_rate
from bigtrain.train.meter import Meter
from bigtrain.train.profile import ProfileWindow
from bigtrain.train.sums import Sizes, Sums, sizes_of_reports, sum_over_ranks


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    step: int = 0
    samples: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step, as every rank knows it."""

    progress: Progress
    losses: dict[str, float]
    """``loss``, which is minimized but for a z-loss, and the parts of a BERT's; means, in nats."""
    grad_norm: float
    learning_rate: float
    skipped: str | None
    """Why the update was not applied; None where it was."""
    samples: tuple[int, int]
    """First and last sample of the batch, in the order of the run."""
    tokens_per_second: float
    seconds: "StepSeconds"
    stop: bool
    """Whether any rank was asked to stop."""
    epochs: dict[str, float]
    """How often each corpus has been read."""
    extra: dict[str, float] = field(default_factory=dict)
    """What the meter says."""

    @property
    def loss(self) -> float:
        """What is minimized, in nats; a z-loss is left out."""
        return self.losses["loss"]


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Where the time of a step went, on this rank's clock."""

    data: float
    """Waiting for the batch."""
    forward_backward: float
    """Until the gradient's norm is known and the update judged."""
    optimizer: float

    @property
    def whole(self) -> float:
        """Of the whole step."""
        return self.data + self.forward_backward + self.optimizer


class StepReducer(Protocol):
    """Contributes floats to the per-step all-reduce and receives the global sums."""

    def contribution(self) -> Sequence[float]:
        """This rank's floats; as many in every step."""

    def receive(self, sums: Sequence[float]) -> None:
        """Receives their sums over all ranks, before the update."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What all ranks know between the backward passes and the update."""

    sums: Sums
    grad_norm: float
    reason: str | None
    stop: bool
    time: float


class Trainer:
    """Takes steps; the same on every rank, in every layout."""

    def __init__(
        self,
        config: RunConfig,
        *,
        engine: Engine,
        data: TrainingData,
        layout: Layout,
        coordinates: RankCoordinates,
        device: torch.device,
        meter: Meter | None = None,
        profile: ProfileWindow | None = None,
    ) -> None:
        self.config, self.engine, self.data = config, engine, data
        self._layout, self._coordinates, self.device = layout, coordinates, device
        self._meter, self._profile = meter, profile
        self._sizes = sizes_of_reports(config.model)
        self.guard = Guard(config.guard)
        self.progress = Progress()

    def steps(
        self, stop_requested: Callable[[], bool], *, reducer: StepReducer | None = None
    ) -> Iterator[StepResult]:
        """Takes steps until the run is whole; the caller ends it earlier by not asking for more."""
        while self.progress.step < self.config.train.steps:
            step = self.progress.step + 1
            with nullcontext() if self._profile is None else self._profile.step(step):
                result = self._step(step, stop_requested, reducer)
            yield result

    def between_steps(self, name: str) -> AbstractContextManager[None]:
        """Times what happens between two steps; ``NAME_seconds`` is told with the next one."""
        return nullcontext() if self._meter is None else self._meter.between_steps(name)

    def validate(self) -> dict[str, float]:
        """Losses, and a BERT's accuracies, over all validation corpora; the loss of each."""
        forward_step = make_forward_step(
            self.config, device=self.device, loss_scale=1.0, measure=True
        )
        sizes = sizes_of_reports(self.config.model, measure=True)
        sources = self.data.validations
        measured = [self._measure(forward_step, source, sizes) for source in sources]
        total = measured[0]
        for other in measured[1:]:
            total = total + other
        figures = total.figures()
        if len(sources) > 1:
            for source, sums in zip(sources, measured, strict=True):
                figures[f"loss/{source.name}"] = sums.figures()["loss"]
        return figures

    def _measure(self, forward_step: ForwardStep, source: Source, sizes: Sizes) -> Sums:
        reports = (
            report
            for batch in self.data.validation_batches(source)
            for report in self.engine.evaluate(forward_step, batch.microbatches)
        )
        return self._sum(reports, sizes)

    def _step(
        self, step: int, stop_requested: Callable[[], bool], reducer: StepReducer | None
    ) -> StepResult:
        started = time.perf_counter()
        consumed = self.progress.samples
        self._begin("data")
        batch = self.data.batch(consumed)
        fetched = time.perf_counter()
        self._begin("forward_backward")
        rate = learning_rate(self.config, step)
        verdict: _Verdict | None = None

        def accept(reports: Sequence[Report], grad_norm: float) -> bool:
            nonlocal verdict
            verdict = self._judge(reports, grad_norm, stop=stop_requested(), reducer=reducer)
            self._begin("optimizer")
            return verdict.reason is None

        self.engine.train_step(
            self._forward_step(step, batch),
            batch.microbatches,
            learning_rate=rate,
            accept=accept,
        )
        assert verdict is not None
        self._begin("report")
        synchronize(self.device)
        ended = time.perf_counter()
        seconds = StepSeconds(fetched - started, verdict.time - fetched, ended - verdict.time)
        return self._result(step, batch, verdict, seconds, rate)

    def _result(
        self, step: int, batch: Batch[Any], verdict: _Verdict, seconds: StepSeconds, rate: float
    ) -> StepResult:
        """Advances the state and tells of the step."""
        consumed, tokens = self.progress.samples, verdict.sums.tokens
        self.progress = Progress(
            step=step,
            samples=consumed + self.config.batch_size(consumed),
            tokens=self.progress.tokens + (tokens if verdict.reason is None else 0),
        )
        extra = {}
        if self._meter is not None:
            extra = self._meter.end_step(
                seconds=seconds.whole, tokens=tokens, microbatches=batch.microbatches
            )
        return StepResult(
            progress=self.progress,
            losses=verdict.sums.figures(),
            grad_norm=verdict.grad_norm,
            learning_rate=rate,
            skipped=verdict.reason,
            samples=self.data.sample_numbers(consumed),
            tokens_per_second=tokens / seconds.whole,
            seconds=seconds,
            stop=verdict.stop,
            epochs=self.data.epochs(self.progress.samples),
            extra=extra,
        )

    def _judge(
        self,
        reports: Sequence[Report],
        grad_norm: float,
        *,
        stop: bool,
        reducer: StepReducer | None,
    ) -> _Verdict:
        """Lets the guard decide; on all ranks by the very same numbers, or they would part."""
        is_first = dist.get_rank() == 0
        contribution = () if reducer is None else reducer.contribution()
        extra = [float(stop), is_first and grad_norm, *contribution]
        sums = self._sum(reports, self._sizes, extra=extra)
        stops, norm, *reduced = sums.extra
        if reducer is not None:
            reducer.receive(reduced)
        return _Verdict(
            sums=sums,
            grad_norm=norm,
            reason=self.guard.judge(sums.figures()["loss"], norm),
            stop=stops > 0,
            time=time.perf_counter(),
        )

    def _sum(self, reports: Iterable[Report], sizes: Sizes, *, extra: Sequence[float] = ()) -> Sums:
        return sum_over_ranks(
            reports,
            sizes=sizes,
            counts=self._coordinates.tensor == 0,
            device=self.device,
            extra=extra,
        )

    def _forward_step(self, step: int, batch: Batch[Any]) -> ForwardStep:
        def reseed(microbatch: int, chunk: int) -> None:
            groups.reseed(
                self.config.seed,
                step=step,
                microbatch=microbatch,
                chunk=chunk,
                coordinates=self._coordinates,
                device=self.device,
            )

        # The schedule divides by the microbatches and DeepSpeed by the batch ranks: every target of
        # the batch weighs the same, and so does every pair.
        divided_by = len(batch.microbatches) * self._layout.batch_ranks
        batch_size = self.config.batch_size(self.progress.samples)
        return make_forward_step(
            self.config,
            device=self.device,
            loss_scale=divided_by / self._num_targets(batch),
            sentence_scale=divided_by / batch_size,
            before=reseed if self.config.model.dropout > 0 else None,
        )

    def _num_targets(self, batch: Batch[Any]) -> int | torch.Tensor:
        """Targets of the whole batch; where each rank knows its own, they are added up."""
        if batch.num_targets is not None:
            return max(1, batch.num_targets)
        mine = torch.stack([microbatch.weights.sum() for microbatch in batch.microbatches]).sum()
        total = mine.to(self.device)
        # Nobody waits for the answer here: it stays on the device.
        dist.all_reduce(total, group=groups.batch_group())
        return total.clamp(min=1.0)

    def _begin(self, phase: str) -> None:
        if self._meter is not None:
            self._meter.begin(phase)
