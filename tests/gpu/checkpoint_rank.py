"""Saves on one rank while it trains, and checks the copies.

``python -m tests.gpu.checkpoint_rank DEVICE SHAPE FOLDER`` prints the results as JSON.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.checkpoint_ranks import MODEL, Ours, Trainer
from tests.distributed.steps import steps_config, tiny_model

SHAPES = {"124M": MODEL, "tiny": {**tiny_model(), "max_sequence_length": 64}}
SAVES = 4


@contextmanager
def _trainer(device_name: str, shape: str) -> Iterator[Trainer]:
    from bigtrain.environment import read_ranks
    from bigtrain.parallel.device import choose_device

    ranks = read_ranks()
    device = choose_device(device_name, ranks)
    from bigtrain.config.layout import layout_of
    from bigtrain.engine.engine import Engine
    from bigtrain.models.build import build_chunks
    from bigtrain.parallel.groups import process_groups

    config = steps_config(
        model=SHAPES[shape],
        data={"sequence_length": 64},
        train={"global_batch_size": 1, "precision": "bf16"},
        parallel={"device": device_name, "zero": 1},
    )
    layout = layout_of(config, 1)
    with process_groups(ranks, layout, device):
        engine = Engine(config, build_chunks(config, layout), layout=layout, device=device)
        engine.initialize()
        yield Trainer(config, engine, device)
        engine.close()


def check_save(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """Saves while it trains; returns whether copy, update and loaded state are right."""
    import torch

    from bigtrain.checkpoint.loading import load_checkpoint
    from bigtrain.checkpoint.storage_folder import open_folder

    for _ in range(2):
        trainer.step()
    ours = Ours(trainer)
    saver, state = ours.saver(folder), ours.state()
    then = {name: values.clone() for name, values in trainer.tensors.items()}
    saver.begin(state)
    copies: list[torch.Tensor] = []

    def keep_copies() -> None:
        copies.extend(ours.copies())

    trainer.step(saver, before_update=keep_copies)
    moved = [not torch.equal(then[name], trainer.tensors[name]) for name in then]
    while not (ended := saver.pop_results()):
        trainer.step(saver)
    assert ended[0].error is None
    loaded = load_checkpoint(open_folder(folder / "step-00000001"), trainer.engine)
    return {
        "pinned": all(copy.is_pinned() for copy in copies),
        "copied": torch.equal(_flat(copies), _flat(then.values())),
        "updated": all(moved),
        "restored": all(torch.equal(then[name], trainer.tensors[name]) for name in then),
        "steps": [loaded.optimizer_steps, trainer.engine.optimizer_steps],
    }


def time_saves(trainer: Trainer, folder: Path) -> dict[str, list[float]]:
    """Seconds of synchronous saves, and stall and cost in seconds of asynchronous saves."""
    trainer.step()
    ours = Ours(trainer)
    found: dict[str, list[float]] = {}
    for number in range(SAVES):
        trainer.measure_step()
        asynchronous = ours.save_asynchronously(folder / f"asynchronous-{number}")
        synchronous = ours.save(folder / f"synchronous-{number}")
        for name, value in {**asynchronous, "synchronous": synchronous["whole"]}.items():
            found.setdefault(name, []).append(round(value, 4))
    return found


def _flat(tensors: Any) -> Any:
    import torch

    return torch.cat([tensor.reshape(-1).cpu() for tensor in tensors])


if __name__ == "__main__":
    device_name, shape, folder = sys.argv[1:]
    with _trainer(device_name, shape) as trainer:
        look = check_save if shape == "tiny" else time_saves
        sys.stdout.write(f"\n{json.dumps(look(trainer, Path(folder)))}\n")
