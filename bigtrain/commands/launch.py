"""`bigtrain launch`: starts the ranks of a run on this machine, or submits it to a cluster."""

from collections.abc import Mapping
from typing import Annotated

import typer

from bigtrain.commands.arguments import (
    AcceptChange,
    GpusPerNode,
    Image,
    Profiles,
    Render,
    Renderer,
    Sources,
)

_PROFILE_KEY = "cluster."
"""Overrides that begin with this go to the profile of the cluster."""


def launch(
    sources: Sources,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes on this machine; by default as many as one copy of the model needs "
            "(tensor × pipeline).",
            min=1,
        ),
    ] = None,
    cluster: Profiles = [],  # noqa: B006 - the default is never changed
    nodes: Annotated[
        int | None, typer.Option(help="Nodes that get ranks (with --cluster or --render).", min=1)
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the batch script; write no file, submit no job."),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="As --dry-run, and ask SLURM whether and when the job could start."
        ),
    ] = False,
    render: Render = None,
    image: Image = None,
    gpus_per_node: GpusPerNode = None,
    accept_change: AcceptChange = [],  # noqa: B006 - the default is never changed
) -> None:
    """Starts a run, or resumes it from its newest checkpoint: on this machine, or on a cluster."""
    of_profile = [source for source in sources if source.startswith(_PROFILE_KEY)]
    of_run = [source for source in sources if source not in of_profile]
    if render is not None or image is not None or gpus_per_node is not None:
        others = {"--cluster": cluster, "--processes": processes, "cluster.": of_profile}
        _refuse_with_render({**others, "--dry-run": dry_run, "--check": check}, render, nodes)
        _print_kubernetes(of_run, nodes or 1, image, gpus_per_node, accept_change)
        return
    if not cluster:
        _refuse_without_cluster(of_profile, nodes=nodes, dry_run=dry_run, check=check)
        _launch_here(of_run, processes=processes, accept_change=accept_change)
        return
    from bigtrain.commands.launch_cluster import launch_on_cluster
    from bigtrain.config import ConfigError

    if processes is not None:
        raise ConfigError(
            f"--processes {processes} is for this machine; with --cluster give --nodes, and "
            "cluster.ranks_per_node=N where it is not the number of GPUs"
        )
    profile = [*cluster, *(source.removeprefix(_PROFILE_KEY) for source in of_profile)]
    launch_on_cluster(
        of_run,
        profile,
        nodes=nodes,
        dry_run=dry_run or check,
        check=check,
        accept_change=accept_change,
    )


def _refuse_without_cluster(
    of_profile: list[str], *, nodes: int | None, dry_run: bool, check: bool
) -> None:
    given = [
        *of_profile,
        *([f"--nodes {nodes}"] if nodes is not None else []),
        *(["--dry-run"] if dry_run else []),
        *(["--check"] if check else []),
    ]
    if given:
        from bigtrain.config import ConfigError

        raise ConfigError(
            f"{', '.join(given)}: for a cluster only; give its profile, --cluster PROFILE.yaml"
        )


def _refuse_with_render(
    others: Mapping[str, object], render: Renderer | None, nodes: int | None
) -> None:
    from bigtrain.config import ConfigError

    if render is None:
        raise ConfigError("--image and --gpus-per-node are for --render kubernetes; add it")
    if given := [name for name, value in others.items() if value]:
        raise ConfigError(f"--render {render} starts nothing: leave {', '.join(given)} out")
    if nodes is None:
        raise ConfigError(f"--render {render} needs the number of pods: give --nodes N")


def _print_kubernetes(
    sources: list[str],
    nodes: int,
    image: str | None,
    gpus_per_node: int | None,
    accept_change: list[str],
) -> None:
    from bigtrain.commands.render_kubernetes import render_kubernetes
    from bigtrain.runs.resolve_run import resolve_run

    text = render_kubernetes(
        resolve_run(sources),
        nodes=nodes,
        image=image,
        gpus_per_node=gpus_per_node,
        accept_changes=accept_change,
    )
    typer.echo(text, nl=False)


def _launch_here(sources: list[str], *, processes: int | None, accept_change: list[str]) -> None:
    from bigtrain.commands.import_for_run import with_imported_weights
    from bigtrain.commands.local_launch import launch_locally
    from bigtrain.commands.queued_jobs import check_no_job
    from bigtrain.engine.deepspeed_version import check_deepspeed_version
    from bigtrain.parallel.device_check import check_device
    from bigtrain.runs.resolve_run import resolve_run
    from bigtrain.runs.resume_checks import check_run

    config = resolve_run(sources)
    count = processes or config.parallel.model_parallel_size
    config.data_parallel_size(count)
    check_deepspeed_version(config)
    check_run(config, accepted=accept_change)
    check_device(config)
    check_no_job(config.run_dir, only_known=True)
    config = with_imported_weights(config, accepted=accept_change)
    raise typer.Exit(launch_locally(config, processes=count, accepted=accept_change))
