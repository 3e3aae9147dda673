"""Takes the first steps of a run in one layout and records their results; runs in every rank."""

from itertools import islice
from pathlib import Path

import torch

from bigtrain.config import RunConfig
from bigtrain.engine.boxes import GradientBox, StateBox
from bigtrain.engine.engine import Engine
from bigtrain.environment import Ranks
from bigtrain.models.translate import DTYPES
from bigtrain.parity.record import (
    GRADIENT,
    PARAMETER,
    RecordedBox,
    RecordWriter,
    StepFigures,
    perturbed_folder,
)
from bigtrain.train.assemble import open_trainer
from bigtrain.train.trainer import Progress, Trainer


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
        ranks: This process's rank and the number of ranks.
        device: From ``choose_device``.
        steps: Number of steps; at most ``train.steps``.
        folder: The folder for the record; it exists.
        perturbed_runs: How often the steps are taken again, each time from initial weights that
            are changed at random by one unit in the last place. Their records show the effect of
            rounding; they are written to ``perturbed_folder(folder, number)``.

    Raises:
        ConfigError: The config does not fit the data or the number of ranks.
    """
    # More threads would add in another order, and layouts have different numbers of ranks.
    torch.set_num_threads(1)
    with open_trainer(config, ranks=ranks, device=device, measures_speed=False) as trainer:
        trainer.engine.initialize()
        _record_steps(trainer, steps, RecordWriter(folder, rank=ranks.rank))
        for number in range(1, perturbed_runs + 1):
            _restart(trainer)
            _perturb_weights(trainer.engine, precision=config.train.precision, seed=number)
            own = perturbed_folder(folder, number)
            own.mkdir()
            _record_steps(trainer, steps, RecordWriter(own, rank=ranks.rank))


def _record_steps(trainer: Trainer, steps: int, writer: RecordWriter) -> None:
    """Takes steps, and writes the gradients of the first and the parameters after the last."""

    def write_first_gradients(step: int) -> None:
        if step == 1:
            writer.write(GRADIENT, map(_recorded, trainer.engine.gradient_boxes()))

    results = trainer.steps(lambda: False, on_gradients=write_first_gradients)
    figures = [StepFigures(result.loss, result.grad_norm) for result in islice(results, steps)]
    writer.write(PARAMETER, map(_recorded, trainer.engine.boxes()))
    writer.finish(figures)


def _restart(trainer: Trainer) -> None:
    """Sets weights, moments, counters and the guard to their values before step 1."""
    trainer.restore(Progress(), guard={})
    engine = trainer.engine
    engine.initialize()
    engine.optimizer_steps = 0
    for box in engine.boxes():
        box.first_moment.zero_()
        box.second_moment.zero_()


def _perturb_weights(engine: Engine, *, precision: str, seed: int) -> None:
    """Changes each weight at random by plus or minus one unit in the last place, except zeros."""
    unit = torch.finfo(DTYPES[precision]).eps
    generator = torch.Generator().manual_seed(seed)
    with engine.writable_boxes() as boxes:
        for box in boxes:
            signs = torch.randint(0, 2, box.master.shape, generator=generator) * 2 - 1
            box.master.mul_((1 + unit * signs).to(box.master))


def _recorded(box: GradientBox | StateBox) -> RecordedBox:
    values = box.values if isinstance(box, GradientBox) else box.master
    return RecordedBox(
        name=box.name,
        global_shape=box.global_shape,
        offset=box.offset,
        values=values.detach().float().cpu().numpy(),
        is_first_replica=box.is_first_replica,
    )
