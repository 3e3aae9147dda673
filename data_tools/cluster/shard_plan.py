"""Plans a sharding job for a cluster: an array that writes the tars, and a job that seals them."""

from collections.abc import Sequence
from pathlib import Path

from data_tools.cluster.plan import ArrayPlan, PlannedJob, choose_num_parts, parts_of
from data_tools.cluster.request import ArrayRequest
from data_tools.errors import InputError
from data_tools.jobs.task_locks import lock_job_file, lock_tasks, write_part_count
from data_tools.manifest import MANIFEST_NAME
from data_tools.reading.text_sources import STANDARD_INPUT
from data_tools.sharding.prepare_job import PreparedJob, prepare_job
from data_tools.sharding.seal_job import is_sealed
from data_tools.sharding.shard_job import Job, claim_folder
from data_tools.sharding.shard_markers import find_done_tasks
from data_tools.sharding.shard_options import ShardOptions


def plan_shard_jobs(
    request: ArrayRequest,
    patterns: Sequence[str],
    *,
    tokenizer: Path,
    out: Path,
    options: ShardOptions,
    option_words: Sequence[str],
) -> ArrayPlan:
    """Plans the jobs for the tars that are missing; writes nothing.

    Args:
        request: What the user asks for.
        patterns: Folders, globs, files and URLs, as `shard_corpus` takes them.
        tokenizer: The tokenizer file.
        out: The output folder.
        options: The options of the job.
        option_words: The same options as words of a command line, without those of this function.

    Raises:
        InputError: As `shard_corpus` does, or the text is standard input.
    """
    if STANDARD_INPUT in patterns:
        raise InputError(
            "standard input (-) cannot be read by jobs of a cluster: write it to a file, and give "
            "that"
        )
    out = out.absolute()
    with prepare_job(
        patterns, tokenizer=tokenizer, out=out, options=options, reads_stdin=False
    ) as prepared:
        pass
    tasks, job = prepared.tasks, prepared.job
    done, missing = find_done_tasks(tasks, job)
    num_parts = choose_num_parts(request.num_parts, len(tasks))
    own = (f"--tokenizer={tokenizer.absolute()}", f"--out={out}", f"--workers={request.cpus}")
    array = PlannedJob(
        name="shard",
        title=f"Sharding into {out}: writes the tars that are missing, in {num_parts} parts.",
        arguments=("shard", *own, *option_words),
        operands=("--", *patterns),
        parts=parts_of(missing, num_parts),
    )
    return ArrayPlan(
        command="shard",
        out=out,
        folder=job.folder,
        jobs=_choose_jobs(array, job, is_complete=not missing),
        num_parts=num_parts,
        num_tasks=len(tasks),
        num_done=len(done),
        result=f"{job.splits[-1]}/{MANIFEST_NAME}",
        is_new=prepared.is_new,
        claim=lambda: _claim(prepared, num_parts),
    )


def _choose_jobs(array: PlannedJob, job: Job, *, is_complete: bool) -> tuple[PlannedJob, ...]:
    if is_complete and is_sealed(job):
        return ()
    seal = PlannedJob(
        name="seal",
        title=f"Sharding into {job.out}: checks that every tar is there, and writes the manifests.",
        arguments=("seal", str(job.out)),
    )
    return (seal,) if is_complete else (array, seal)


def _claim(prepared: PreparedJob, num_parts: int) -> None:
    folder = prepared.job.folder
    with lock_tasks(folder, []), lock_job_file(folder):
        claim_folder(prepared.job, prepared.tokenizer)
        write_part_count(folder, num_parts)
