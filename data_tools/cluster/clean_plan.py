"""Plans a cleaning job for a cluster: its passes, of which two are arrays."""

from collections.abc import Iterator
from pathlib import Path

from bigtrain.config import ConfigError
from bigtrain.config.paths import expand_paths
from bigtrain.config.yaml12 import render_yaml
from data_tools.cleaning.clean_config import CleanConfig
from data_tools.cleaning.clean_job import CleanJob, claim_folder, plan_job
from data_tools.cleaning.clean_parts import CleanPass, find_unscanned
from data_tools.cleaning.clean_report import REPORT_NAME
from data_tools.cleaning.find_duplicates import load_duplicates
from data_tools.cluster.plan import (
    CLUSTER_FOLDER,
    ArrayPlan,
    PlannedJob,
    choose_num_parts,
    parts_of,
)
from data_tools.cluster.request import ArrayRequest
from data_tools.errors import InputError
from data_tools.files import write_file
from data_tools.jobs.task_locks import lock_job_file, lock_tasks, write_part_count

_RECIPE = "recipe.yaml"
_TITLES = {
    CleanPass.scan: "applies the rules to the documents, in parts",
    CleanPass.duplicates: "finds the duplicates among all documents",
    CleanPass.write: "writes the documents without the duplicates, in parts",
    CleanPass.seal: "checks that every part is there, and writes the report",
}


def plan_clean_jobs(request: ArrayRequest, config: CleanConfig) -> ArrayPlan:
    """Plans the jobs for the passes that are not done; writes nothing.

    Raises:
        InputError: As `clean_corpus` does, or a path of the recipe cannot be written to a file.
    """
    out = Path(config.out).absolute()
    config = config.model_copy(update={"out": str(out), "workers": request.cpus})
    recipe = _render_recipe(config)
    job = plan_job(config)
    is_new = not job.has_begun
    done, _ = job.find_finished(job.tasks)
    num_parts = choose_num_parts(request.num_parts, len(job.tasks))
    return ArrayPlan(
        command="clean",
        out=out,
        folder=job.folder,
        jobs=tuple(_plan_passes(job, num_parts)),
        num_parts=num_parts,
        num_tasks=len(job.tasks),
        num_done=len(done),
        result=REPORT_NAME,
        is_new=is_new,
        claim=lambda: _claim(job, recipe, num_parts),
    )


def _plan_passes(job: CleanJob, num_parts: int) -> Iterator[PlannedJob]:
    _, unfinished = job.find_finished(job.tasks)
    unscanned = find_unscanned(job)
    if unscanned:
        yield _plan_pass(job, CleanPass.scan, parts_of(unscanned, num_parts))
    finds_duplicates = bool(unfinished) and load_duplicates(job.settings) is None
    if finds_duplicates:
        yield _plan_pass(job, CleanPass.duplicates)
    if unfinished:
        parts = parts_of(unfinished, num_parts)
        yield _plan_pass(job, CleanPass.write, parts, needs_success=finds_duplicates)
    if unfinished or not job.is_sealed:
        yield _plan_pass(job, CleanPass.seal)


def _plan_pass(
    job: CleanJob,
    which: CleanPass,
    parts: tuple[int, ...] | None = None,
    *,
    needs_success: bool = False,
) -> PlannedJob:
    recipe = job.folder / CLUSTER_FOLDER / _RECIPE
    return PlannedJob(
        name=which.value,
        title=f"Cleaning into {job.out}: {_TITLES[which]}.",
        arguments=("clean", str(recipe), f"--only={which.value}"),
        parts=parts,
        needs="succeeded" if needs_success else "ended",
    )


def _render_recipe(config: CleanConfig) -> bytes:
    """Renders the resolved recipe, so that later changes of the user's files have no effect."""
    values = config.model_dump(mode="json")
    try:
        is_readable = expand_paths(values, CleanConfig) == values
    except ConfigError:
        is_readable = False
    if not is_readable:
        raise InputError(
            f"{config.out} or an input has a $, or a ~ at its beginning, in its real name: rename "
            "it, or reach it through a link"
        )
    return render_yaml(values).encode()


def _claim(job: CleanJob, recipe: bytes, num_parts: int) -> None:
    with lock_tasks(job.folder, []), lock_job_file(job.folder):
        claim_folder(job)
        write_part_count(job.folder, num_parts)
    write_file(job.folder / CLUSTER_FOLDER / _RECIPE, recipe)
