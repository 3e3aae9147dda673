"""`bigtrain cluster init`: writes the profile of a cluster from what SLURM says about itself."""

from pathlib import Path
from typing import Annotated

import typer

from bigtrain.config.path_arguments import expanded

app = typer.Typer(no_args_is_help=True)


@app.callback()
def cluster() -> None:
    """Profiles of clusters, for `bigtrain launch --cluster`."""


@app.command(short_help="Write a profile from what SLURM says about the cluster.")
def init(
    partition: Annotated[
        str | None,
        typer.Option(help="Partition to describe; by default the cluster's default partition."),
    ] = None,
    out: Annotated[
        Path, typer.Option(callback=expanded, help="File to write; it must not exist yet.")
    ] = Path("cluster.yaml"),
) -> None:
    """Writes a commented profile from `sinfo` and `scontrol`, and says what it guessed."""
    from bigtrain.config import ConfigError
    from bigtrain.config.cluster import ClusterConfig
    from bigtrain.config.yaml12 import parse_yaml
    from data_tools.files import write_file
    from launcher.slurm.client import show_config, show_partition
    from launcher.slurm.partitions import find_partitions
    from launcher.slurm.profile import draft_profile

    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} exists, and is not overwritten; give another file with --out")
    facts = find_partitions(ClusterConfig(partition=partition))[0]
    draft = draft_profile(facts, show_partition(facts.name), show_config())
    ClusterConfig.model_validate(parse_yaml(draft.text))
    write_file(out, draft.text.encode())
    typer.echo(f"{out}: profile of partition {facts.name}")
    for guess in draft.guesses:
        typer.echo(f"  guessed {guess}")
    typer.echo(f"next: bigtrain launch RUN.yaml --cluster {out} --nodes 1 --check")
