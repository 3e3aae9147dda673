"""The checkpoint benchmark's rank functions: saves and loads of a 124M-parameter GPT-2 on 2 ranks.

Each function runs in every rank of `run_ranks`, in a process that ends with its parent.
"""

import ctypes
import gc
import os
import random
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.distributed.steps import engine_of, steps_config

LENGTH = 64
MODEL = {
    "num_layers": 12,
    "hidden_size": 768,
    "num_heads": 12,
    "vocab_size": 50257,
    "max_sequence_length": 1024,
}
LAYOUTS: dict[str, dict[str, int]] = {
    "zero 1, data 2": {"zero": 1},
    "tensor 2": {"tensor": 2},
    "pipeline 2": {"pipeline": 2},
}
SAVED_IN = "zero 1, data 2"
FREE_STEPS = 3
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

Seconds = dict[str, float]


def shape_config(layout: str) -> Any:
    """The run config that all contenders use."""
    return steps_config(
        model=MODEL,
        data={"sequence_length": LENGTH},
        train={"global_batch_size": 2},
        parallel=LAYOUTS[layout],
    )


def save_in_turn(folder: Path, rounds: int) -> list[Seconds]:
    """Saves in turn with bigtrain, torch and DeepSpeed, each time into a new folder.

    The first round gives the figures of a first save; later rounds run warm.
    """
    with _trainer(SAVED_IN) as trainer:
        ours, dcp = Ours(trainer), _DcpAsynchronous(trainer)
        contenders = {
            "ours": ours.save,
            "ours, asynchronous": ours.save_asynchronously,
            "DCP": lambda folder: _save_with_dcp(trainer, folder),
            "DCP, asynchronous": dcp.save_asynchronously,
            "DeepSpeed": lambda folder: _save_with_deepspeed(trainer, folder),
            "raw writes": lambda folder: _write_raw(trainer, folder),
        }
        found = []
        for number in range(1 + rounds):
            trainer.measure_step()
            seconds: Seconds = {}
            # The order changes each time, because the removed files free memory for the next save.
            names = random.Random(number).sample(list(contenders), len(contenders))
            for name in names:
                here = folder / f"{number}-{name}"
                _settle_disk()
                seconds |= {
                    f"{name}: {what}": value for what, value in contenders[name](here).items()
                }
                _settle_disk(removed=here)
            found.append(seconds)
        return found


def save_once(folder: Path) -> None:
    """Takes a step and saves a checkpoint of step 1."""
    with _trainer(SAVED_IN) as trainer:
        trainer.step()
        Ours(trainer).save(folder)


def measure_memory(folder: Path) -> dict[str, float]:
    """Peak resident memory that saves add, relative to the size of this rank's state."""
    from bigtrain.parallel.device import peak_memory_bytes, reset_peak_memory

    added = {}
    with _trainer(SAVED_IN) as trainer:
        trainer.step()
        ours = Ours(trainer)
        for name, copies in (("synchronous", False), ("first asynchronous", True)):
            gc.collect()
            assert reset_peak_memory(trainer.device)
            before = peak_memory_bytes(trainer.device)
            saver = ours.saver(folder / name)
            saver.begin(ours.state(), copies=copies)
            saver.finish()
            added[name] = (peak_memory_bytes(trainer.device) - before) / trainer.local_bytes
    return added


def load(layout: str, checkpoint: Path, times: int) -> list[Seconds]:
    """Loads into a layout, ``times`` times from the page cache and ``times`` times from the disk.

    Returns:
        For each time the seconds of a ``warm`` and a ``cold`` load, and the seconds until the last
        byte was read and checked; after that the ranks exchange their weights.
    """
    from bigtrain.checkpoint.loading import load_checkpoint
    from bigtrain.checkpoint.storage_folder import open_folder

    _end_with_parent()
    found = []
    with engine_of(shape_config(layout)) as (engine, _, _):
        whole_load = engine.writable_boxes
        read = 0.0

        @contextmanager
        def timed_boxes() -> Iterator[Any]:
            nonlocal read
            with whole_load() as boxes:
                yield boxes
                read = time.perf_counter()

        engine.writable_boxes = timed_boxes
        for _ in range(times):
            seconds: Seconds = {}
            for name in ("warm", "cold"):
                if name == "cold":
                    _drop_page_cache(checkpoint)
                started = time.perf_counter()
                load_whole = _timed(lambda: load_checkpoint(open_folder(checkpoint), engine))
                seconds |= {name: load_whole, f"{name}, read": read - started}
            found.append(seconds)
    return found


class Trainer:
    """An engine that takes steps as the training loop does, and the state of its rank."""

    def __init__(self, config: Any, engine: Any, device: Any) -> None:
        import torch

        from bigtrain.checkpoint.snapshot import tensors_of
        from bigtrain.data.microbatch import Microbatch
        from bigtrain.objectives.forward import make_forward_step
        from bigtrain.objectives.next_token import NextToken
        from bigtrain.objectives.objective import LossScales

        self.engine, self.device, self.config = engine, device, config
        self.step_seconds = 0.0
        ones = torch.ones(1, LENGTH)
        tokens = torch.randint(0, config.model.vocab_size, (1, LENGTH + 1))
        self._microbatch = Microbatch(tokens[:, :-1], tokens[:, 1:].contiguous(), ones)
        self._forward = make_forward_step(
            NextToken(), config, device=self.device, scales=LossScales(target=1 / LENGTH)
        )
        self.tensors = {
            f"{key}@{box.offset}": view.detach() for key, box, view in tensors_of(engine.boxes())
        }
        self.local_bytes = 4 * sum(view.numel() for view in self.tensors.values())

    def step(self, saver: Any = None, *, before_update: Callable[[], object] = bool) -> float:
        """Takes a step as the training loop does; returns its seconds."""
        import torch
        import torch.distributed as dist

        from bigtrain.parallel.device import synchronize

        started = time.perf_counter()
        self.engine.backward(self._forward, [self._microbatch])
        self.engine.reduce()
        if saver is not None:
            sums = torch.tensor(saver.contribution(), dtype=torch.float64, device=self.device)
            dist.all_reduce(sums)
            saver.receive(sums.tolist())
        before_update()
        self.engine.update(1e-4)
        synchronize(self.device)
        return time.perf_counter() - started

    def measure_step(self) -> None:
        """Measures the median seconds of a step without a save."""
        self.step_seconds = statistics.median(self.step() for _ in range(FREE_STEPS))


@contextmanager
def _trainer(layout: str) -> Iterator[Trainer]:
    import torch

    _end_with_parent()
    config = shape_config(layout)
    with engine_of(config) as (engine, _, _):
        yield Trainer(config, engine, torch.device("cpu"))


class Ours:
    """bigtrain's savers, which share host memory for copies as one saver does between saves."""

    def __init__(self, trainer: Trainer) -> None:
        from bigtrain.checkpoint.snapshot import HostCopy

        self._trainer, self._copy = trainer, HostCopy()

    def saver(self, folder: Path) -> Any:
        """Makes a saver for a folder."""
        from bigtrain.checkpoint.saver import Saver
        from bigtrain.checkpoint.storage_folder import open_folder

        saver = Saver(
            open_folder(folder),
            self._trainer.engine,
            policy=self._trainer.config.checkpoint,
            tokenizer=b"",
            attempt=1,
            device=self._trainer.device,
        )
        saver._copy = self._copy
        return saver

    def copies(self) -> list[Any]:
        """The host copies of the last save."""
        return self._copy._memory

    def state(self) -> Any:
        """The training state of step 1."""
        from bigtrain.checkpoint.schema import TrainState

        return TrainState(
            step=1,
            samples=0,
            tokens=0,
            optimizer_steps=self._trainer.engine.optimizer_steps,
            data_stages=[],
            config=self._trainer.config.model_dump(mode="json"),
            tokenizer_sha256="",
        )

    def save(self, folder: Path) -> Seconds:
        """Saves synchronously."""
        saver, state = self.saver(folder), self.state()
        return {"whole": _timed(lambda: saver.save(state))}

    def save_asynchronously(self, folder: Path) -> Seconds:
        """Saves asynchronously while it trains."""
        saver = self.saver(folder)
        saver.begin(self.state())
        steps = []
        while not (ended := saver.pop_results()):
            steps.append(self._trainer.step(saver))
        assert ended[0].error is None
        return {
            "stall": ended[0].stall_seconds,
            "whole": ended[0].seconds,
            "cost": ended[0].seconds - len(steps) * self._trainer.step_seconds,
        }


class _DcpAsynchronous:
    """torch.distributed.checkpoint's own asynchronous save, which reuses its host memory."""

    def __init__(self, trainer: Trainer) -> None:
        import torch.distributed as dist
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        self._trainer = trainer
        self._group = dist.new_group(backend="gloo")
        # The other options need CUDA.
        self._stager = DefaultStager(StagingOptions(False, False, False, False))

    def save_asynchronously(self, folder: Path) -> Seconds:
        """Saves asynchronously while it trains."""
        import torch.distributed.checkpoint as dcp

        started = time.perf_counter()
        written: Any = dcp.async_save(
            _named(self._trainer.tensors),
            checkpoint_id=folder,
            process_group=self._group,
            async_stager=self._stager,
        )
        stall = time.perf_counter() - started
        steps = []
        while not _is_everywhere(written.done()):
            steps.append(self._trainer.step())
        written.result()
        whole = time.perf_counter() - started
        cost = whole - len(steps) * self._trainer.step_seconds
        return {"stall": stall, "whole": whole, "cost": cost}


def _save_with_dcp(trainer: Trainer, folder: Path) -> Seconds:
    import torch.distributed.checkpoint as dcp

    writer = dcp.FileSystemWriter(folder)
    assert writer.sync_files
    tensors = _named(trainer.tensors)
    return {"whole": _timed(lambda: dcp.save(tensors, storage_writer=writer))}


def _save_with_deepspeed(trainer: Trainer, folder: Path) -> Seconds:
    import torch.distributed as dist

    def save() -> None:
        trainer.engine._deepspeed.save_checkpoint(str(folder), tag="it", save_latest=False)

    def make_durable() -> None:
        for file in sorted(folder.rglob("*.pt"))[dist.get_rank() :: dist.get_world_size()]:
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    seconds = _timed(save)
    return {"whole": seconds, "durable": seconds + _timed(make_durable)}


def _write_raw(trainer: Trainer, folder: Path) -> Seconds:
    import torch.distributed as dist

    folder.mkdir(exist_ok=True)

    def write() -> None:
        with (folder / f"{dist.get_rank()}").open("wb") as file:
            for tensor in trainer.tensors.values():
                file.write(memoryview(tensor.contiguous().numpy()).cast("B"))
            file.flush()
            os.fsync(file.fileno())

    return {"whole": _timed(write)}


def _named(tensors: dict[str, Any]) -> dict[str, Any]:
    import torch.distributed as dist

    return {f"{dist.get_rank()}/{name}": tensor for name, tensor in tensors.items()}


def _timed(save: Callable[[], object]) -> float:
    import torch.distributed as dist

    dist.barrier()
    started = time.perf_counter()
    save()
    dist.barrier()
    return time.perf_counter() - started


def _is_everywhere(done: bool) -> bool:
    import torch
    import torch.distributed as dist

    everywhere = torch.tensor(float(done))
    dist.all_reduce(everywhere, op=dist.ReduceOp.MIN)
    return bool(everywhere.item())


def _settle_disk(removed: Path | None = None) -> None:
    import torch.distributed as dist

    dist.barrier()
    if dist.get_rank() == 0:
        if removed is not None:
            shutil.rmtree(removed)
        os.sync()
    dist.barrier()


def _drop_page_cache(folder: Path) -> None:
    import torch.distributed as dist

    dist.barrier()
    for file in sorted(folder.iterdir()):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
