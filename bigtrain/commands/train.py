"""`bigtrain train` and the hidden `train-rank`: one rank of a run trains in this process."""

from pathlib import Path
from typing import TYPE_CHECKING

from bigtrain.commands.arguments import AcceptChange, Sources
from bigtrain.commands.quiet_libraries import quiet_libraries

if TYPE_CHECKING:
    from bigtrain.config import RunConfig


def train(sources: Sources, accept_change: AcceptChange = []) -> None:  # noqa: B006
    """Trains as one rank of a run; `bigtrain launch` or torchrun starts all of them."""
    from bigtrain.environment import read_ranks
    from bigtrain.runs.resolve_run import resolve_run

    _train(resolve_run(sources, readers=read_ranks().world_size), accept_change)


def train_rank(config: Path, accept_change: AcceptChange = []) -> None:  # noqa: B006
    """Trains as one rank with a config that `bigtrain launch` has resolved and checked."""
    from bigtrain.config.config_files import load_resolved_config

    _train(load_resolved_config(config), accept_change)


def _train(config: "RunConfig", accept_change: list[str]) -> None:
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

    run_training(config, ranks=ranks, device=device, accept_changes=accept_change)
