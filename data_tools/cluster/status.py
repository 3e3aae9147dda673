"""What `bigtrain data status` shows: the jobs of an output folder, and which parts failed."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_tools.cluster.job_record import DataJobRecord, SubmittedJob, base_id, load_record
from data_tools.cluster.plan import CLUSTER_FOLDER
from data_tools.errors import InputError
from launcher.slurm.client import QueuedJob, SlurmError, list_queue

_MARKER = re.compile(r"\d{6}\.json")
_SCAN = re.compile(r"\d{6}\.scan\.json")
_JOB_FOLDERS = ("tasks", ".tasks")
"""The job's folder of `shard` and of `clean`."""
_SHOWN = 8


def render_status(out: Path) -> list[str]:
    """Renders the state of the jobs of an output folder, one line for each.

    Raises:
        InputError: No job was submitted for the folder.
    """
    found = _find_record(out.absolute())
    if found is None:
        raise InputError(
            f"{out}: no job of a cluster writes here: submit one with `bigtrain data shard` or "
            "`bigtrain data clean`, and --cluster"
        )
    folder, record = found
    lines = [_render_progress(out, folder, record)]
    try:
        queue = list_queue([job.job for job in record.jobs])
        lines += [_render_job(job, queue) for job in record.jobs]
    except SlurmError as error:
        ids = ", ".join(job.job for job in record.jobs)
        lines.append(f"jobs {ids}: whether they wait or run is not known: {error}")
    lines += _render_failures(folder / CLUSTER_FOLDER, record.jobs)
    return lines


def _find_record(out: Path) -> tuple[Path, DataJobRecord] | None:
    for name in _JOB_FOLDERS:
        if (record := load_record(out / name)) is not None:
            return out / name, record
    return None


def _render_progress(out: Path, folder: Path, record: DataJobRecord) -> str:
    if (out / record.result).is_file():
        return f"{out}: complete, {record.num_tasks} tasks"
    names = [path.name for path in folder.iterdir()]
    done = sum(_MARKER.fullmatch(name) is not None for name in names)
    scanned = sum(_SCAN.fullmatch(name) is not None for name in names)
    scans = f", {scanned} scanned" if record.command == "clean" else ""
    return f"{out}: {done} of {record.num_tasks} tasks done{scans}"


def _render_job(job: SubmittedJob, queue: Sequence[QueuedJob]) -> str:
    what = job.name if job.parts is None else f"{job.name}, {job.parts} parts"
    mine = [line for line in queue if base_id(line) == job.job]
    if not mine:
        return f"job {job.job} ({what}): not in the queue any more"
    states: Counter[str] = Counter()
    for line in mine:
        reason = f" ({line.reason})" if line.state == "PENDING" and line.reason else ""
        states[f"{line.state.lower()}{reason}"] += _count_parts(line)
    counts = (f"{count} {state}" for state, count in states.items())
    return f"job {job.job} ({what}): {', '.join(states if job.parts is None else counts)}"


def _count_parts(line: QueuedJob) -> int:
    """The number of parts in a line of the queue: 1 for 12_3, 4 for 12_[4-6,9]."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", line.job.partition("[")[2].partition("%")[0])
    return sum(int(last or first) - int(first) + 1 for first, last in ranges) or 1


def _render_failures(folder: Path, jobs: Sequence[SubmittedJob]) -> Iterator[str]:
    """The last failure of each job and part, with its log."""
    files = [
        path for job in jobs for path in sorted(folder.glob(f"{job.name}-{job.job}*.failures"))
    ]
    for path in files[:_SHOWN]:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        times = f" ({len(lines)} times)" if len(lines) > 1 else ""
        last = lines[-1] if lines else "no reason"
        yield f"failed{times}: {path.stem}: {last}; log: {path.with_suffix('.log')}"
    if len(files) > _SHOWN:
        yield f"and {len(files) - _SHOWN} more: see {folder}/*.failures"
