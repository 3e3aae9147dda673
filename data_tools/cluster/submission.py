"""Submits the jobs of a plan, all or none, and records their ids."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_tools.cluster.job_record import (
    SubmittedJob,
    base_id,
    find_queued_jobs,
    new_record,
    write_record,
)
from data_tools.cluster.plan import CLUSTER_FOLDER, ArrayPlan
from data_tools.cluster.request import ArrayRequest
from data_tools.errors import InputError
from data_tools.files import PRIVATE, write_file
from data_tools.jobs.output_folder import only_writer
from launcher.slurm.array_script import ArrayJob, render_array_script
from launcher.slurm.client import show_config
from launcher.slurm.dependent_jobs import DependentJob, dependency_options, submit_in_order

_COMMAND = ("-m", "bigtrain.cli", "data")


def check_cluster(request: ArrayRequest, out: Path) -> None:
    """Checks, before the input is read, that the jobs could be submitted.

    Raises:
        InputError: The output folder or the number of parts does not fit the cluster.
        SlurmError: SLURM is not installed or does not answer.
    """
    shared = request.cluster.shared_folder
    if shared is not None and not out.resolve().is_relative_to(Path(shared).resolve()):
        raise InputError(f"{out} is outside shared_folder={shared}: choose an output folder inside")
    if not str(out).isprintable() or "\\" in str(out):
        raise InputError(f"{str(out)!r}: the path must have no backslash or control character")
    if request.dry_run:
        return
    largest = show_config().get("MaxArraySize", "")
    if largest.isdecimal() and request.num_parts > int(largest):
        raise InputError(
            f"--tasks {request.num_parts}: arrays of this cluster have at most {largest} parts "
            f"(MaxArraySize); use --tasks {largest} or fewer, with more --workers"
        )


def render_plan(plan: ArrayPlan, request: ArrayRequest) -> list[tuple[ArrayJob, str]]:
    """Renders the scripts of a plan.

    Returns:
        The jobs and the texts of their scripts, first to last.
    """
    jobs = [
        ArrayJob(
            name=planned.name,
            title=planned.title,
            job_name=f"bigtrain-{planned.name}-{plan.out.name}",
            arguments=(*_COMMAND, *planned.arguments),
            operands=planned.operands,
            parts=planned.parts,
            num_parts=plan.num_parts,
            cpus=1 if planned.parts is None else request.cpus,
            memory=request.memory,
            folder=plan.folder / CLUSTER_FOLDER,
            work_dir=Path.cwd(),
        )
        for planned in plan.jobs
    ]
    render = render_array_script
    return [(job, render(job, request.cluster, python=sys.executable)) for job in jobs]


def render_dry_run(plan: ArrayPlan, request: ArrayRequest) -> str:
    """Renders the sbatch commands of a plan, each with its script."""
    shown, before = [], ""
    for planned, (job, text) in zip(plan.jobs, render_plan(plan, request), strict=True):
        options = dependency_options(DependentJob(job.script, planned.needs), f"<{before}>")
        words = ["sbatch", *(options if before else []), str(job.script)]
        shown.append(f"# {' '.join(words)}\n{text}")
        before = job.name
    return "\n".join(shown)


def submit_plan(plan: ArrayPlan, request: ArrayRequest) -> list[SubmittedJob]:
    """Submits the jobs of a plan.

    Returns:
        The jobs, first to last.

    Raises:
        InputError: Jobs of this folder are in the queue, or another process writes there.
        SlurmError: A job cannot be submitted. None remains in the queue, and the output folder is
            as before, unless a job had been submitted.
    """
    rendered = render_plan(plan, request)
    needs = [planned.needs for planned in plan.jobs]
    submitted: list[SubmittedJob] = []
    record = new_record(plan)

    def on_submit(position: int, job_id: str) -> None:
        job = rendered[position][0]
        parts = None if job.parts is None else len(job.parts)
        submitted.append(SubmittedJob(job=job_id, name=job.name, parts=parts))
        write_record(plan.folder, record.model_copy(update={"jobs": tuple(submitted)}))

    with _undo_if_none(plan, submitted), only_writer(plan.folder / CLUSTER_FOLDER):
        _refuse_queued(plan)
        plan.claim()
        for job, text in rendered:
            # It holds the profile's environment, perhaps with secrets.
            write_file(job.script, text.encode(), mode=PRIVATE)
        links = [
            DependentJob(job.script, need) for (job, _), need in zip(rendered, needs, strict=True)
        ]
        submit_in_order(links, on_submit=on_submit)
    return submitted


def _refuse_queued(plan: ArrayPlan) -> None:
    queued = find_queued_jobs(plan.folder)
    if not queued:
        return
    ids = " ".join(dict.fromkeys(base_id(job) for job in queued))
    states = ", ".join(dict.fromkeys(f"{job.state} {job.reason}".strip() for job in queued))
    raise InputError(
        f"jobs of {plan.out} are in the queue: {ids} ({states}); wait for them, or cancel them "
        f"with `scancel {ids}`"
    )


@contextmanager
def _undo_if_none(plan: ArrayPlan, submitted: list[SubmittedJob]) -> Iterator[None]:
    """Removes what this submission wrote for a new job, if none of its jobs was submitted."""
    existed = plan.out.exists()
    folders = (plan.folder / CLUSTER_FOLDER, plan.folder, plan.out)
    before = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    try:
        yield
    except BaseException:
        if plan.is_new and not submitted:
            _remove_new(folders, before)
            if not existed and plan.out.is_dir() and not any(plan.out.iterdir()):
                plan.out.rmdir()
        raise


def _remove_new(folders: tuple[Path, ...], before: set[Path]) -> None:
    for folder in (folder for folder in folders if folder.is_dir()):
        for path in set(folder.iterdir()) - before:
            if not path.is_dir():
                path.unlink(missing_ok=True)
            elif not any(path.iterdir()):
                path.rmdir()
