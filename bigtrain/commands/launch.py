"""`bigtrain launch`: starts the ranks of a run on this machine."""

import sys
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
    from bigtrain.engine.deepspeed_version import check_deepspeed_version
    from bigtrain.parallel.device_check import check_device
    from bigtrain.runs.launch_end import record_end
    from bigtrain.runs.launch_file import launch_file
    from bigtrain.runs.resolve_run import resolve_run
    from bigtrain.runs.resume_checks import check_run
    from bigtrain.runs.run_folder import RunFolder
    from launcher.local import LocalJob, render_failure, run_local

    config = resolve_run(sources)
    count = processes or config.parallel.model_parallel_size
    config.data_parallel_size(count)
    check_deepspeed_version(config)
    check_run(config, accepted=accept_change)
    check_device(config)
    accepted = [word for key in accept_change for word in ("--accept-change", key)]
    folder = RunFolder(config.run_dir)
    with launch_file(config) as file:
        job = LocalJob(
            command=(sys.executable, "-m", "bigtrain.cli", "train-rank", str(file), *accepted),
            processes=count,
            log_dir=folder.logs,
        )
        processes_of = "process" if count == 1 else "processes"
        typer.echo(f"starting {count} {processes_of} of run {config.name}", err=True)
        result = run_local(job)
    if result.failure is not None:
        typer.echo(f"bigtrain: {render_failure(result.failure)}", err=True)
    record_end(folder, result)
    raise typer.Exit(result.exit_code)
