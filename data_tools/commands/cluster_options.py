"""The options of the commands that can run as jobs of a cluster, and what these commands show."""

from collections.abc import Collection
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bigtrain.config.path_arguments import expanded

if TYPE_CHECKING:
    from data_tools.cluster.plan import ArrayPlan
    from data_tools.cluster.request import ArrayRequest

Cluster = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PROFILE.yaml",
        help="Submit the job to SLURM as an array; this is the profile of the cluster. May be "
        "repeated: KEY=VALUE changes the profile, such as time=2:00:00.",
    ),
]
NumParts = Annotated[
    int | None,
    typer.Option(
        "--tasks", metavar="N", help="Number of parts: tasks of the SLURM array (with --cluster)."
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="16G",
        help="Memory of each part (with --cluster).  [default: the cluster's]",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="With --cluster: show the scripts, and submit nothing.")
]
ArrayTask = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Run only part I of N, counted from 0: the tasks I, I + N, I + 2 N, … of the job.",
    ),
]


def read_cluster_options(context: typer.Context, *, workers: int | None) -> "ArrayRequest | None":
    """Reads the options --cluster, --tasks, --memory, --dry-run and --task of a command.

    Args:
        context: The context of a command that has these options.
        workers: Processes of each task of the array, if the user gave them.

    Returns:
        None without --cluster.

    Raises:
        InputError: The options do not fit together, or have a value that is not valid.
        ConfigError: The profile is not valid.
    """
    from data_tools.cluster.request import read_request

    values = context.params
    return read_request(
        values["cluster"],
        num_parts=values["tasks"],
        workers=workers,
        memory=values["memory"],
        dry_run=values["dry_run"],
        task=values["task"],
    )


def option_words(context: typer.Context, *, without: Collection[str]) -> list[str]:
    """The options that a command was called with, as words; those with their default are left out.

    Args:
        context: The context of the command.
        without: The parameters to leave out.
    """
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        is_default = value is None or value == parameter.get_default(context)
        if name in without or is_default or parameter.param_type_name == "argument":
            continue
        option = parameter.opts[0]
        if value is True:
            words.append(option)
        else:
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"{option}={_text(each)}" for each in values]
    return words


def submit_or_show(plan: "ArrayPlan", request: "ArrayRequest") -> None:
    """Submits a plan and says how to watch it; or shows its scripts."""
    from data_tools.cluster.plan import CLUSTER_FOLDER
    from data_tools.cluster.submission import render_dry_run, submit_plan

    if not plan.jobs:
        typer.echo(f"{plan.out}: all {plan.num_tasks} tasks are done already; nothing to submit")
        return
    if plan.num_parts < request.num_parts:
        typer.echo(
            f"the job has {plan.num_tasks} tasks, so {plan.num_parts} parts instead of "
            f"{request.num_parts}; a smaller task size gives more (--task-mb, in a recipe task_mb)",
            err=True,
        )
    if request.dry_run:
        typer.echo(render_dry_run(plan, request))
        return
    jobs = submit_plan(plan, request)
    for job in jobs:
        parts = "" if job.parts is None else f", {job.parts} of {plan.num_parts} parts"
        typer.echo(f"submitted job {job.job}: {job.name}{parts}")
    typer.echo(
        f"{plan.out}: {plan.num_done} of {plan.num_tasks} tasks are done; progress: "
        f"bigtrain data status {plan.out}; logs: {plan.folder / CLUSTER_FOLDER}; if parts fail, "
        "run this command again"
    )


def status(
    out: Annotated[Path, typer.Argument(callback=expanded, help="The output folder of the jobs.")],
) -> None:
    """Shows the jobs of `shard --cluster` or `clean --cluster`."""
    from data_tools.cluster.status import render_status

    for line in render_status(out):
        typer.echo(line)


def _text(value: Any) -> str:
    return str(value.value) if isinstance(value, Enum) else str(value)
