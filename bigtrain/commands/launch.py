"""`bigtrain launch`: starts the ranks of a run on this machine."""

from typing import Annotated

import typer

from bigtrain.commands.arguments import AcceptChange, Sources


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
    accept_change: AcceptChange = [],  # noqa: B006 - the default is never changed
) -> None:
    """Starts a run on this machine, or resumes it from its newest checkpoint."""
    from bigtrain.commands.local_launch import launch_locally
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
    raise typer.Exit(launch_locally(config, processes=count, accepted=accept_change))
