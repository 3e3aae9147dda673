"""The loop: take a batch, train a step, advance the state, do what is due, stop if asked."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from bigtrain.config import RunConfig
from bigtrain.data.batches import TrainingData
from bigtrain.data.microbatch import Batch, Microbatch
from bigtrain.engine.engine import Engine, Update
from bigtrain.parallel import groups
from bigtrain.parallel.device import synchronize
from bigtrain.parallel.layout import Layout, Place
from bigtrain.parallel.schedule import ForwardStep, Report
from bigtrain.train.forward import LOSS_SUM, WEIGHT_SUM, gpt_forward_step
from bigtrain.train.learning_rate import learning_rate


class DivergedError(RuntimeError):
    """The loss or the gradient is no longer finite."""


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
    loss: float
    """Mean over the step's tokens, in nats."""
    grad_norm: float
    learning_rate: float
    seconds: float
    data_seconds: float
    tokens_per_second: float
    stop: bool
    """Whether any rank was asked to stop."""
    epochs: dict[str, float]
    """How often each corpus has been read."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """Over all tokens and ranks."""

    loss: float
    weight: float
    stops: float

    @property
    def mean_loss(self) -> float:
        return self.loss / self.weight


class Trainer:
    """Takes steps; the same on every rank, in every layout."""

    def __init__(
        self,
        config: RunConfig,
        *,
        engine: Engine,
        data: TrainingData,
        layout: Layout,
        place: Place,
        device: torch.device,
    ) -> None:
        self.config, self.engine, self.data = config, engine, data
        self._layout, self._place, self._device = layout, place, device
        self.progress = Progress()

    def steps(self, stop_requested: Callable[[], bool]) -> Iterator[StepResult]:
        """Takes steps until the run is whole; the caller ends it earlier by not asking for more."""
        while self.progress.step < self.config.train.steps:
            yield self._step(stop_requested)

    def validation_loss(self) -> float:
        """Mean loss over the validation samples, in nats per token."""
        forward_step = gpt_forward_step(
            vocab_size=self.config.model.vocab_size, device=self._device, loss_scale=1.0
        )
        reports = (
            report
            for batch in self.data.validation_batches()
            for report in self.engine.evaluate(forward_step, batch.microbatches)
        )
        return self._sum_over_ranks(reports).mean_loss

    def _step(self, stop_requested: Callable[[], bool]) -> StepResult:
        started = time.perf_counter()
        step = self.progress.step + 1
        batch = self.data.batch(self.progress.samples)
        data_seconds = time.perf_counter() - started
        rate = learning_rate(self.config, step)
        forward_step = self._forward_step(step, batch)
        update = self.engine.train_step(forward_step, batch.microbatches, learning_rate=rate)
        sums = self._sum_over_ranks(update.reports, stop=stop_requested())
        synchronize(self._device)
        seconds = time.perf_counter() - started
        _check_finite(step, sums, update)
        self.progress = Progress(
            step=step,
            samples=self.progress.samples + self.config.train.global_batch_size,
            tokens=self.progress.tokens + int(sums.weight),
        )
        return StepResult(
            progress=self.progress,
            loss=sums.mean_loss,
            grad_norm=update.grad_norm,
            learning_rate=rate,
            seconds=seconds,
            data_seconds=data_seconds,
            tokens_per_second=sums.weight / seconds,
            stop=sums.stops > 0,
            epochs=self.data.epochs(self.progress.samples),
        )

    def _forward_step(self, step: int, batch: Batch[Microbatch]) -> ForwardStep:
        assert batch.num_targets is not None

        def reseed(microbatch: int, chunk: int) -> None:
            groups.reseed(
                self.config.seed,
                step=step,
                microbatch=microbatch,
                chunk=chunk,
                place=self._place,
                device=self._device,
            )

        return gpt_forward_step(
            vocab_size=self.config.model.vocab_size,
            device=self._device,
            # The schedule divides by the microbatches and DeepSpeed by the data ranks: every
            # target of the batch weighs the same.
            loss_scale=len(batch.microbatches) * self._layout.data / batch.num_targets,
            before=reseed if self.config.model.dropout > 0 else None,
        )

    def _sum_over_ranks(self, reports: Iterable[Report], *, stop: bool = False) -> _Sums:
        """One small reduction a step: the loss, and whether any rank was asked to stop."""
        sums = torch.zeros(3, dtype=torch.float64, device=self._device)
        for report in reports:
            sums[:2] += torch.stack([report[LOSS_SUM], report[WEIGHT_SUM]]).double()
        if self._place.tensor != 0:  # Tensor ranks repeat the same sums: one of them counts.
            sums.zero_()
        sums[2] += float(stop)
        dist.all_reduce(sums)
        return _Sums(*sums.tolist())


def _check_finite(step: int, sums: _Sums, update: Update) -> None:
    if math.isfinite(sums.loss) and not update.skipped:
        return
    raise DivergedError(
        f"step {step}: the loss ({sums.mean_loss:g}) or the gradient's norm "
        f"({update.grad_norm:g}) is not finite; lower optim.learning_rate or raise "
        "optim.warmup_steps (with --accept-change optim) and go on from the last checkpoint"
    )
