"""The hidden `bigtrain preflight-rank`: one rank that measures its node before training."""

from pathlib import Path
from typing import Annotated

import typer

from bigtrain.commands.quiet_libraries import quiet_libraries


def preflight_rank(
    config: Path,
    folder: Annotated[Path, typer.Option()],
    pair: Annotated[bool, typer.Option("--pair")] = False,
) -> None:
    """Measures this node, or a pair of nodes, as one of their ranks; the supervisor starts all."""
    from bigtrain.config.config_files import load_resolved_config
    from bigtrain.environment import read_ranks

    run, ranks = load_resolved_config(config), read_ranks()
    quiet_libraries()
    from bigtrain.parallel.device_check import check_and_choose_device

    device = check_and_choose_device(run, ranks)
    from bigtrain.parallel.node_rates import measure_rates

    file = folder / f"rank-{ranks.rank}.json"
    measure_rates("pair" if pair else "node", ranks=ranks, device=device, file=file)
