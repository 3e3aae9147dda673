"""The command `clean`."""

from typing import TYPE_CHECKING, Annotated

import typer

from data_tools.commands.cluster_options import (
    ArrayTask,
    Cluster,
    DryRun,
    Memory,
    NumParts,
    read_cluster_options,
    submit_or_show,
)
from data_tools.commands.interrupts import stop_when_interrupted

if TYPE_CHECKING:
    from data_tools.cleaning.clean_config import CleanConfig
    from data_tools.cleaning.clean_corpus import CleanResult
    from data_tools.cluster.request import ArrayRequest


def clean(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG.yaml... [KEY=VALUE...]",
            help="YAML files, merged left to right, then overrides such as length.min_words=20.",
        ),
    ],
    only: Annotated[
        str | None,
        typer.Option(
            metavar="PASS",
            help="Run only one pass of the job: scan, duplicates, write or seal, in this order; "
            "scan and write with --task.",
        ),
    ] = None,
    task: ArrayTask = None,
    cluster: Cluster = None,
    tasks: NumParts = None,
    memory: Memory = None,
    dry_run: DryRun = False,
) -> None:
    """Drops documents of low quality and duplicates, and counts them by rule."""
    with stop_when_interrupted():
        from bigtrain.config import load_config
        from data_tools.cleaning.clean_config import CleanConfig
        from data_tools.cleaning.clean_corpus import clean_corpus
        from data_tools.errors import InputError

        config = load_config(sources, CleanConfig)
        is_set = "workers" in config.model_fields_set
        request = read_cluster_options(context, workers=config.workers if is_set else None)
        if request is not None:
            if only is not None:
                raise InputError("--cluster submits all passes: leave out --only")
            _submit(request, config)
            return
        if only is not None or task is not None:
            _run_pass(config, only, task)
            return
        result = clean_corpus(config)
    _report(result)


def _submit(request: "ArrayRequest", config: "CleanConfig") -> None:
    from pathlib import Path

    from data_tools.cluster.clean_plan import plan_clean_jobs
    from data_tools.cluster.submission import check_cluster

    check_cluster(request, Path(config.out).absolute())
    submit_or_show(plan_clean_jobs(request, config), request)


def _run_pass(config: "CleanConfig", only: str | None, task: str | None) -> None:
    from data_tools.cleaning.clean_parts import (
        CleanPass,
        find_all_duplicates,
        scan_part,
        seal_parts,
        write_part,
    )
    from data_tools.errors import InputError
    from data_tools.jobs.array_part import parse_part

    if only is None or only not in {*CleanPass}:
        named = "--task needs --only" if only is None else f"--only {only!r}"
        raise InputError(f"{named}: give --only scan, duplicates, write or seal")
    which, part = CleanPass(only), parse_part(task)
    if which.has_parts is (part is None):
        wanted = (
            "needs --task I/N, such as 0/4" if part is None else "is one task: leave out --task"
        )
        raise InputError(f"--only {which} {wanted}")
    if which is CleanPass.seal:
        _report(seal_parts(config))
        return
    if part is None:
        result = find_all_duplicates(config)
    else:
        result = (scan_part if which is CleanPass.scan else write_part)(config, part)
    how = "already done" if not result.fresh else f"{result.fresh} of them now"
    typer.echo(f"{result.out}: {which}: {result.done} of {result.tasks_of_job} tasks done, {how}")


def _report(result: "CleanResult") -> None:
    from rich.console import Console

    from data_tools.cleaning.clean_report import render_report

    Console().print(render_report(result.counts))
    rate = result.input_bytes / 1e6 / result.seconds
    how = "already done" if result.already_done else f"{rate:,.1f} MB/s"
    typer.echo(
        f"{result.out}: {result.counts.kept:,} of {result.counts.documents:,} documents kept, "
        f"in {result.parts:,} parts beside report.json, {how}"
    )
