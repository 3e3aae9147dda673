"""The training loop: take a batch, compute gradients, update or skip, advance the progress."""

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
from bigtrain.data.corpora import Source
from bigtrain.data.microbatch import RankBatch
from bigtrain.engine.engine import Engine
from bigtrain.objectives.forward import make_forward_step
from bigtrain.objectives.objective import LossScales, Objective, Sizes
from bigtrain.objectives.report_sums import ReportSums, sum_over_ranks
from bigtrain.parallel import groups
from bigtrain.parallel.device import synchronize
from bigtrain.parallel.schedule import ForwardStep, Report
from bigtrain.train.guard import Guard
from bigtrain.train.learning_rate import learning_rate
from bigtrain.train.meter import Meter
from bigtrain.train.profile import ProfileWindow


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: steps taken, samples read, tokens trained on."""

    step: int = 0
    samples: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step; the same on every rank, except for times, rates and ``extra``."""

    progress: Progress
    losses: dict[str, float]
    """The objective's figures; ``loss`` is the minimized loss, without a z-loss."""
    grad_norm: float
    learning_rate: float
    skipped: str | None
    """Why the update was skipped; None if it was applied."""
    samples: tuple[int, int]
    """First and last sample of the batch, in the order of the run."""
    tokens_per_second: float
    seconds: "StepSeconds"
    stop: bool
    """Whether any rank was asked to stop."""
    epochs: dict[str, float]
    """How often each corpus has been read."""
    extra: dict[str, float] = field(default_factory=dict)
    """The meter's numbers."""

    @property
    def loss(self) -> float:
        """The minimized loss in nats, without a z-loss."""
        return self.losses["loss"]


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """The seconds of each part of a step, on this rank's clock."""

    data: float
    """Waiting for the batch."""
    forward_backward: float
    """Until the gradient norm is known and the decision whether to update is made."""
    optimizer: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.data + self.forward_backward + self.optimizer


class StepReducer(Protocol):
    """Contributes floats to the per-step all-reduce and receives the global sums."""

    def contribution(self) -> Sequence[float]:
        """This rank's floats; the same number in every step."""

    def receive(self, sums: Sequence[float]) -> None:
        """Receives their sums over all ranks, before the update."""


@dataclass(frozen=True, slots=True)
class _Decision:
    """The sums of a step over all ranks, before its update, and whether to update."""

    sums: ReportSums
    grad_norm: float
    skipped: str | None
    """Why the update is skipped; None if it is applied."""
    stop: bool
    decided_at: float
    """A time of `time.perf_counter`."""


class Trainer:
    """Takes steps; the same on every rank, in every layout."""

    def __init__(
        self,
        config: RunConfig,
        *,
        objective: Objective,
        engine: Engine,
        data: TrainingData,
        layout: Layout,
        coordinates: RankCoordinates,
        device: torch.device,
        meter: Meter | None = None,
        profile: ProfileWindow | None = None,
    ) -> None:
        self.config, self.objective = config, objective
        self.engine, self.data = engine, data
        self.layout, self._coordinates, self.device = layout, coordinates, device
        self._meter, self._profile = meter, profile
        self._sizes = objective.report_sizes(config.model, measure=False)
        self.guard = Guard(config.guard)
        self.progress = Progress()

    def restore(self, progress: Progress, *, guard: dict[str, Any]) -> None:
        """Sets the progress and the guard's state to those of a checkpoint.

        Args:
            progress: How far the run was.
            guard: The guard's `state`; empty if the checkpoint has none.
        """
        self.progress = progress
        self.guard.restore(guard)

    def steps(
        self,
        stop_requested: Callable[[], bool],
        *,
        reducer: StepReducer | None = None,
        on_gradients: Callable[[int], None] | None = None,
    ) -> Iterator[StepResult]:
        """Takes steps until ``train.steps`` are done, or until the caller stops iterating.

        Args:
            stop_requested: Returns whether this rank was asked to stop.
            reducer: Adds floats to the per-step all-reduce.
            on_gradients: Called with the number of each step after its gradients are reduced and
                before they are applied; the engine's ``gradient_boxes`` can be read then.
        """
        while self.progress.step < self.config.train.steps:
            step = self.progress.step + 1
            with nullcontext() if self._profile is None else self._profile.step(step):
                result = self._step(step, stop_requested, reducer, on_gradients)
            yield result

    def between_steps(self, name: str) -> AbstractContextManager[None]:
        """Times work between two steps; the next step reports it as ``NAME_seconds``."""
        return nullcontext() if self._meter is None else self._meter.between_steps(name)

    def validate(self, on_batch: Callable[[], None] = lambda: None) -> dict[str, float]:
        """The objective's figures over all validation corpora, and the loss of each.

        Args:
            on_batch: Called after each batch.
        """
        forward_step = make_forward_step(
            self.objective, self.config, device=self.device, scales=LossScales(), measure=True
        )
        sizes = self.objective.report_sizes(self.config.model, measure=True)
        sources = self.data.validation_sources
        measured = [self._measure(forward_step, source, sizes, on_batch) for source in sources]
        total = measured[0]
        for other in measured[1:]:
            total = total + other
        figures = total.figures()
        if len(sources) > 1:
            for source, sums in zip(sources, measured, strict=True):
                figures[f"loss/{source.name}"] = sums.figures()["loss"]
        return figures

    def _measure(
        self,
        forward_step: ForwardStep,
        source: Source,
        sizes: Sizes,
        on_batch: Callable[[], None],
    ) -> ReportSums:
        def reports() -> Iterator[Report]:
            for batch in self.data.validation_batches(source):
                yield from self.engine.evaluate(forward_step, batch.microbatches)
                on_batch()

        return self._sum(reports(), sizes)

    def _step(
        self,
        step: int,
        stop_requested: Callable[[], bool],
        reducer: StepReducer | None,
        on_gradients: Callable[[int], None] | None,
    ) -> StepResult:
        started = time.perf_counter()
        self._begin_part("data")
        batch = self.data.batch(self.progress.samples)
        fetched = time.perf_counter()
        self._begin_part("forward_backward")
        reports = self.engine.backward(self._forward_step(step, batch), batch.microbatches)
        grad_norm = self.engine.reduce()
        if on_gradients is not None:
            on_gradients(step)
        decision = self._decide(reports, grad_norm, stop=stop_requested(), reducer=reducer)
        self._begin_part("optimizer")
        rate = learning_rate(self.config, step)
        if decision.skipped is None:
            self.engine.update(rate)
        else:
            self.engine.discard()
        self._begin_part("report")
        synchronize(self.device)
        ended = time.perf_counter()
        seconds = StepSeconds(
            fetched - started, decision.decided_at - fetched, ended - decision.decided_at
        )
        return self._result(step, batch, decision, seconds, rate)

    def _result(
        self,
        step: int,
        batch: RankBatch[Any],
        decision: _Decision,
        seconds: StepSeconds,
        rate: float,
    ) -> StepResult:
        """Advances the progress and returns the step's result."""
        consumed, tokens = self.progress.samples, decision.sums.tokens
        self.progress = Progress(
            step=step,
            samples=consumed + self.config.batch_size(consumed),
            tokens=self.progress.tokens + (tokens if decision.skipped is None else 0),
        )
        extra = {}
        if self._meter is not None:
            extra = self._meter.end_step(
                seconds=seconds.total, tokens=tokens, microbatches=batch.microbatches
            )
        return StepResult(
            progress=self.progress,
            losses=decision.sums.figures(),
            grad_norm=decision.grad_norm,
            learning_rate=rate,
            skipped=decision.skipped,
            samples=self.data.sample_numbers(consumed),
            tokens_per_second=tokens / seconds.total,
            seconds=seconds,
            stop=decision.stop,
            epochs=self.data.epochs(self.progress.samples),
            extra=extra,
        )

    def _decide(
        self,
        reports: Sequence[Report],
        grad_norm: float,
        *,
        stop: bool,
        reducer: StepReducer | None,
    ) -> _Decision:
        """Sums over all ranks and asks the guard whether to update; all ranks decide the same."""
        is_first = dist.get_rank() == 0
        contribution = () if reducer is None else reducer.contribution()
        extra = [float(stop), is_first and grad_norm, *contribution]
        sums = self._sum(reports, self._sizes, extra=extra)
        stops, norm, *reduced = sums.extra
        if reducer is not None:
            reducer.receive(reduced)
        return _Decision(
            sums=sums,
            grad_norm=norm,
            skipped=self.guard.reason_to_skip(sums.figures()["loss"], norm),
            stop=stops > 0,
            decided_at=time.perf_counter(),
        )

    def _sum(
        self, reports: Iterable[Report], sizes: Sizes, *, extra: Sequence[float] = ()
    ) -> ReportSums:
        return sum_over_ranks(
            reports,
            self.objective,
            sizes=sizes,
            counts=self._coordinates.tensor == 0,
            device=self.device,
            extra=extra,
        )

    def _forward_step(self, step: int, batch: RankBatch[Any]) -> ForwardStep:
        def reseed(microbatch: int, chunk: int) -> None:
            groups.reseed(
                self.config.seed,
                step=step,
                microbatch=microbatch,
                chunk=chunk,
                coordinates=self._coordinates,
                device=self.device,
            )

        # These factors cancel two divisions, so that all targets of the batch have the same weight,
        # and so do all samples. The schedule divides the loss by the number of microbatches. The
        # reduction divides the gradients by the number of replica ranks (batch ranks × context
        # ranks), but the schedule has multiplied the loss by the number of context ranks. What
        # remains is a division by the number of batch ranks.
        divided_by = len(batch.microbatches) * self.layout.batch_ranks
        batch_size = self.config.batch_size(self.progress.samples)
        scales = LossScales(
            target=divided_by / self._num_targets(batch), sample=divided_by / batch_size
        )
        return make_forward_step(
            self.objective,
            self.config,
            device=self.device,
            scales=scales,
            before_forward=reseed if self.config.model.dropout > 0 else None,
        )

    def _num_targets(self, batch: RankBatch[Any]) -> int | torch.Tensor:
        """Targets of the batch; if the batch does not have their number, the ranks sum theirs."""
        if batch.num_targets is not None:
            return max(1, batch.num_targets)
        own = torch.stack([microbatch.weights.sum() for microbatch in batch.microbatches]).sum()
        total = own.to(self.device)
        # The total stays on the device, so that no rank has to wait for it here.
        dist.all_reduce(total, group=groups.batch_group())
        return total.clamp(min=1.0)

    def _begin_part(self, part: str) -> None:
        if self._meter is not None:
            self._meter.begin(part)
