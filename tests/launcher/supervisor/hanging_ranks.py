"""Ranks of torch.distributed that hang in a way of the caller's choice, started by its tests.

Each scenario has processes of its own. They register `faulthandler` for SIGQUIT as ranks do. A line
of JSON tells the caller the process of each rank; the processes run until they are killed.
"""

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

from bigtrain.parallel import cpu

FOREVER = 3600


def all_reduce_without_rank_2(rank: int) -> None:
    if rank == 2:
        read_samples()
    dist.all_reduce(torch.ones(4))


def pending_all_gather_without_rank_3(rank: int) -> None:
    if rank == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
    parts = [torch.empty(4) for _ in range(4)]
    work = dist.all_gather(parts, torch.ones(4), async_op=True)
    assert work is not None
    work.wait()


def barrier_without_rank_1(rank: int) -> None:
    if rank == 1:
        reduce_loss()
    dist.barrier()


def receive_from_rank_0(rank: int) -> None:
    if rank == 0:
        read_samples()
    dist.recv(torch.empty(4), src=rank - 1)


def pipeline_without_rank_0(rank: int) -> None:
    if rank == 0:
        read_samples()
    cpu.install()
    config = ModelParallelConfig(pipeline_dtype=torch.float32)
    stages = P2PCommunicator(dist.group.WORLD, config)
    stages.recv_forward((4, 1, 4), False)


def reduce_loss() -> None:
    dist.all_reduce(torch.ones(1))


def read_samples() -> None:
    time.sleep(FOREVER)


SCENARIOS: tuple[Callable[[int], None], ...] = (
    all_reduce_without_rank_2,
    pending_all_gather_without_rank_3,
    barrier_without_rank_1,
    receive_from_rank_0,
    pipeline_without_rank_0,
)


def _run_rank(scenario: Callable[[int], None], rank: int, folder: Path) -> None:
    stacks = (folder / f"{scenario.__name__}-{rank}").open("w")
    faulthandler.register(signal.SIGQUIT, file=stacks, all_threads=True)
    store = dist.FileStore(str(folder / f"{scenario.__name__}-store"), 4)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=4)
    (folder / f"{scenario.__name__}-{rank}-ready").touch()
    scenario(rank)


def _main(folder: Path) -> None:
    torch.set_num_threads(1)
    pids: dict[str, list[int]] = {}
    for scenario in SCENARIOS:
        pids[scenario.__name__] = []
        for rank in range(4):
            if not (pid := os.fork()):
                try:
                    _run_rank(scenario, rank, folder)
                finally:
                    os._exit(1)
            pids[scenario.__name__].append(pid)
    sys.stdout.write(json.dumps(pids) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
