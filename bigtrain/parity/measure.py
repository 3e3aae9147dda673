"""Takes the first steps of a run in one layout and records their results; runs in every rank."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bigtrain.config import RunConfig
from bigtrain.config.layout import layout_of
from bigtrain.data.batches import TrainingData
from bigtrain.engine.engine import Engine
from bigtrain.environment import Ranks
from bigtrain.models.build import build_chunks
from bigtrain.models.translate import DTYPES
from bigtrain.parallel import groups
from bigtrain.parity.record import (
    GRADIENT,
    PARAMETER,
    RecordedBox,
    RecordWriter,
    StepFigures,
    perturbed_folder,
)
from bigtrain.train.trainer import Trainer


def measure(
    config: RunConfig,
    *,
    ranks: Ranks,
    device: torch.device,
    steps: int,
    folder: Path,
    perturbed_runs: int = 0,
) -> None:
    """Takes a run's first steps in its layout and writes this rank's record; every rank calls it.

    The steps are those of training: same initial values, same samples, same trainer. The run's
    folder is not touched.

    Args:
        config: The run, in the layout.
        ranks: Where this process stands.
        device: From ``choose_device``.
        steps: Number of steps; at most ``train.steps``.
        folder: For the record; it exists.
        perturbed_runs: How often the steps are taken again, each time from initial weights that
            are moved at random by one unit in the last place. Their records show what rounding
            changes; they go to ``perturbed_folder(folder, number)``.

    Raises:
        ConfigError: The config does not fit the data or the number of ranks.
    """
    # More threads would add in another order, and layouts have different numbers of ranks.
    torch.set_num_threads(1)
    layout = layout_of(config, ranks.world_size)
    with groups.process_groups(ranks, layout, device) as coordinates:
        data = TrainingData(config, layout=layout, data_rank=coordinates.data)
        engine = Engine(config, build_chunks(config, layout), layout=layout, device=device)

        def take_steps(writer: RecordWriter) -> None:
            recorder: Any = _GradientRecorder(engine, writer)
            trainer = Trainer(
                config,
                engine=recorder,
                data=data,
                layout=layout,
                coordinates=coordinates,
                device=device,
            )
            taken = islice(trainer.steps(lambda: False), steps)
            figures = [StepFigures(result.loss, result.grad_norm) for result in taken]
            _write(engine, writer, engine.pieces(), PARAMETER)
            writer.finish(figures)

        try:
            engine.initialize()
            take_steps(RecordWriter(folder, rank=ranks.rank))
            for number in range(1, perturbed_runs + 1):
                _start_again(engine)
                _move_weights(engine, precision=config.train.precision, seed=number)
                own = perturbed_folder(folder, number)
                own.mkdir()
                take_steps(RecordWriter(own, rank=ranks.rank))
        finally:
            data.close()
            engine.close()


def _start_again(engine: Engine) -> None:
    """Resets weights, moments and the number of updates to their values before step 1."""
    engine.initialize()
    engine.optimizer_steps = 0
    for piece in engine.pieces():
        piece.first_moment.zero_()
        piece.second_moment.zero_()


def _move_weights(engine: Engine, *, precision: str, seed: int) -> None:
    """Moves weights at random, up or down by one unit in the last place; zeros stay zero."""
    unit = torch.finfo(DTYPES[precision]).eps
    chance = torch.Generator().manual_seed(seed)
    with engine.writable_pieces() as pieces:
        for piece in pieces:
            signs = torch.randint(0, 2, piece.master.shape, generator=chance) * 2 - 1
            piece.master.mul_((1 + unit * signs).to(piece.master))


class _GradientRecorder:
    """An engine that writes the gradients of its first step down before they are applied."""

    def __init__(self, engine: Engine, writer: RecordWriter) -> None:
        self._engine, self._writer = engine, writer
        self._is_first = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def train_step(
        self, *args: Any, accept: Callable[[list[Any], float], bool] | None = None, **kwargs: Any
    ) -> Any:
        """As the engine's own."""

        def record_then_accept(reports: list[Any], norm: float) -> bool:
            if self._is_first:
                _write(self._engine, self._writer, self._engine.gradient_pieces(), GRADIENT)
                self._is_first = False
            return accept is None or accept(reports, norm)

        return self._engine.train_step(*args, accept=record_then_accept, **kwargs)


def _write(engine: Engine, writer: RecordWriter, pieces: list[Any], kind: str) -> None:
    values = [piece.values if kind == GRADIENT else piece.master for piece in pieces]
    boxes = (
        RecordedBox(
            name=piece.name,
            global_shape=piece.global_shape,
            offset=piece.offset,
            values=tensor.detach().float().cpu().numpy(),
            is_first_replica=piece.is_first_replica and engine.writes_data_replicas,
        )
        for piece, tensor in zip(pieces, values, strict=True)
    )
    writer.write(kind, boxes)
