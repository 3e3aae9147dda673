"""`bigtrain train` and the hidden `train-rank`: one rank of a run trains in this process."""

import atexit
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bigtrain.commands.arguments import AcceptChange, Sources
from bigtrain.commands.quiet_libraries import quiet_libraries

if TYPE_CHECKING:
    from bigtrain.config import RunConfig
    from bigtrain.health.heartbeat import Heartbeat
    from bigtrain.train.stop import StopFlag


def train(sources: Sources, accept_change: AcceptChange = []) -> None:  # noqa: B006
    """Trains as one rank of a run; `bigtrain launch` or torchrun starts all of them."""
    watched = _begin()
    from bigtrain.environment import read_ranks
    from bigtrain.runs.resolve_run import resolve_run

    _train(resolve_run(sources, readers=read_ranks().world_size), accept_change, watched)


def train_rank(config: Path, accept_change: AcceptChange = []) -> None:  # noqa: B006
    """Trains as one rank with a config that `bigtrain launch` has resolved and checked."""
    watched = _begin()
    from bigtrain.config.config_files import load_resolved_config

    _train(load_resolved_config(config), accept_change, watched)
    _exit_at_once()


def _exit_at_once() -> NoReturn:
    """Ends this process without freeing its objects one by one.

    With torch, DeepSpeed and megatron-core that takes seconds, which a job that is preempted or
    cancelled may not have: SLURM kills it soon after it has saved, before its end is recorded.
    """
    atexit._run_exitfuncs()  # Such as that of logging.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(0)


def _begin() -> tuple["Heartbeat", "StopFlag"]:
    """Lets the launcher watch and stop this rank, before anything slow is imported or read."""
    from bigtrain.environment import read_ranks, read_supervision
    from bigtrain.health.heartbeat import Heartbeat, Phase
    from bigtrain.health.stacks import write_stacks_on_sigquit
    from bigtrain.train.stop import StopFlag

    rank, supervision = read_ranks().rank, read_supervision()
    stop = StopFlag()
    write_stacks_on_sigquit(
        supervision.stacks_file, rank=rank, render_collectives=_render_collectives
    )
    heartbeat = Heartbeat(supervision.heartbeat_socket, rank=rank)
    # A launcher that has received it may send signals.
    heartbeat.enter(Phase.START)
    return heartbeat, stop


def _render_collectives() -> str:
    if "torch.distributed" not in sys.modules:
        return "[]"
    from bigtrain.parallel.recorded_collectives import render_recorded_collectives

    return render_recorded_collectives()


def _train(
    config: "RunConfig", accept_change: list[str], watched: tuple["Heartbeat", "StopFlag"]
) -> None:
    from bigtrain.environment import read_ranks
    from bigtrain.runs.run_folder import RunFolder
    from bigtrain.track.console import set_up_logging
    from bigtrain.track.packages import check_packages

    ranks = read_ranks()
    check_packages(config)
    quiet_libraries()
    set_up_logging(ranks.rank, RunFolder(config.run_dir).logs / "rank-0.log")
    from bigtrain.parallel.device_check import check_and_choose_device

    # DeepSpeed chooses its accelerator when it is imported, so the device is chosen first.
    device = check_and_choose_device(config, ranks)
    from bigtrain.train.run import train as run_training

    heartbeat, stop = watched
    run_training(
        config,
        ranks=ranks,
        device=device,
        accept_changes=accept_change,
        stop=stop,
        heartbeat=heartbeat,
    )
