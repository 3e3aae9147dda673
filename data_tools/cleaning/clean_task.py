"""The two parts of a cleaning task, `scan` and `finish`; the job finds duplicates between them.

`scan` reads the input, applies the rules, and writes the candidates and the tables with which
duplicates are found. `finish` removes the duplicates and writes a part of the result. Both depend
only on the input, the job's settings and files written before, so they can run in any process, at
any time, and again after a crash.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from data_tools.cleaning.clean_config import CleanConfig
from data_tools.cleaning.cleaned_files import part_name, read_lines, render_line, write_lines
from data_tools.cleaning.cleaner import Cleaner
from data_tools.cleaning.document_counts import EXACT, NEAR, Counts
from data_tools.cleaning.duplicate_tables import open_table
from data_tools.cleaning.exact_duplicates import DIGEST_BYTES, digest_text
from data_tools.cleaning.near_duplicates import Sketcher
from data_tools.errors import InputError
from data_tools.files import new_file
from data_tools.jobs.completion_markers import JobMarker, has_size, load_marker, write_marker
from data_tools.reading.documents import Document, Piece, ReadOptions, Skipped
from data_tools.reading.read_pieces import read_piece

# Hidden, so that a command that reads the folder skips it.
TASKS_FOLDER = ".tasks"
KEPT, EXACT_CODE, NEAR_CODE = 0, 1, 2
_RULE_OF = {EXACT_CODE: EXACT, NEAR_CODE: NEAR}


@dataclass(frozen=True, slots=True)
class CleanTask:
    """Some pieces of the input, in order."""

    number: int
    pieces: tuple[Piece, ...]

    @property
    def bytes(self) -> int:
        """Their size on disk."""
        return sum(piece.bytes for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class CleanSettings:
    """The settings of a job, which are the same for all its tasks."""

    out: Path
    job_sha256: str
    config: CleanConfig

    def path(self, task: CleanTask, ending: str) -> Path:
        """The path of an intermediate file of a task."""
        return self.out / TASKS_FOLDER / f"{task.number:06d}.{ending}"

    @property
    def tables(self) -> dict[str, int]:
        """The tables that the job needs: bytes per row, by file ending."""
        near = self.config.near_duplicates
        exact = {"digests": DIGEST_BYTES} if self.config.exact_duplicates.enabled else {}
        if not near.enabled:
            return exact
        return {**exact, "bands": 8 * near.bands, "values": 4 * near.num_perm}


class PartInfo(BaseModel):
    """A file of the result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    bytes: int
    documents: int


class CleanMarker(JobMarker):
    """The result of `scan` or `finish`; written last."""

    candidates: int
    candidate_bytes: int
    """Bytes of their lines, before compression."""
    counts: Counts
    part: PartInfo | None = None
    """None after a scan, and if no document was kept."""


def scan(task: CleanTask, settings: CleanSettings) -> CleanMarker:
    """Applies the rules to the documents of a task."""
    config = settings.config
    options = ReadOptions(
        text_field=config.text_field,
        id_field=config.id_field,
        on_invalid=config.on_invalid,
        are_keys=True,
    )
    cleaner, counts, candidates, size = Cleaner(config), Counts(), 0, 0
    with ExitStack() as files:
        lines = files.enter_context(write_lines(settings.path(task, "candidates")))
        rows = _Rows(files, task, settings)
        for document in _read(task, options):
            if isinstance(document, Skipped):
                counts.skip(document.reason, document.place)
                continue
            cleaned = cleaner.clean(document.text)
            counts.read(document.text, cleaned.edits, document.place)
            if cleaned.fault:
                counts.drop(cleaned.fault, document.place)
            else:
                line = render_line(document, cleaned.text)
                lines.write(line)
                rows.add(cleaned.text)
                candidates, size = candidates + 1, size + len(line)
    marker = CleanMarker(
        job_sha256=settings.job_sha256,
        candidates=candidates,
        candidate_bytes=size,
        counts=counts,
    )
    write_marker(settings.path(task, "scan.json"), marker)
    return marker


def finish(task: CleanTask, settings: CleanSettings, duplicates: NDArray[np.uint8]) -> CleanMarker:
    """Writes the part of a task, without the duplicates among its candidates.

    Args:
        task: A task that has been scanned.
        settings: The job's settings.
        duplicates: `[candidates of the task]`: KEPT, EXACT_CODE or NEAR_CODE.
    """
    scanned = _load(task, "scan.json", settings)
    if scanned is None or scanned.candidates != len(duplicates):
        raise InputError(f"{settings.out} changed while the job ran: run the same command again")
    candidates, path = settings.path(task, "candidates"), settings.out / part_name(task.number)
    counts, kept = scanned.counts, int((duplicates == KEPT).sum())
    if kept == len(duplicates):
        counts.keep(kept, scanned.candidate_bytes)
        if kept:
            with candidates.open("rb") as source, new_file(path) as copy:
                shutil.copyfileobj(source, copy)
    else:
        _write_part(path if kept else None, candidates, duplicates, counts)
    part = PartInfo(file=path.name, bytes=path.stat().st_size, documents=kept) if kept else None
    marker = scanned.model_copy(update={"counts": counts, "part": part})
    write_marker(settings.path(task, "json"), marker)
    candidates.unlink()
    return marker


def load_scan(task: CleanTask, settings: CleanSettings) -> CleanMarker | None:
    """Reads the marker of a scan; None if it must run, for the first time or again."""
    marker = _load(task, "scan.json", settings)
    if marker is None or not settings.path(task, "candidates").is_file():
        return None
    is_complete = all(
        has_size(settings.path(task, ending), marker.candidates * width)
        for ending, width in settings.tables.items()
    )
    return marker if is_complete else None


def load_finished(task: CleanTask, settings: CleanSettings) -> CleanMarker | None:
    """Reads the marker of a finished task; None if it is not done or its part is incomplete."""
    marker = _load(task, "json", settings)
    if marker is None:
        return None
    part = marker.part
    return marker if part is None or has_size(settings.out / part.file, part.bytes) else None


def read_num_candidates(task: CleanTask, settings: CleanSettings) -> int:
    """The number of candidates of a task that was scanned, also while it is being finished.

    Raises:
        InputError: The task was not scanned.
    """
    for ending in ("scan.json", "json"):
        if (marker := _load(task, ending, settings)) is not None:
            return marker.candidates
    raise InputError(
        f"{settings.out}: task {task.number:06d} is not scanned: run the same command with "
        "--only scan first"
    )


def open_tables(
    tasks: Sequence[CleanTask], settings: CleanSettings, ending: str
) -> list[NDArray[Any]]:
    """Maps one table of every task into memory: `[candidates, columns]` each."""
    dtype = "<u4" if ending == "values" else "<u8"
    columns = settings.tables[ending] // np.dtype(dtype).itemsize
    return [open_table(settings.path(task, ending), dtype=dtype, columns=columns) for task in tasks]


def remove_intermediate_files(task: CleanTask, settings: CleanSettings) -> None:
    """Removes the files of a task that a finished job does not need any more."""
    for ending in ("scan.json", "candidates", "digests", "bands", "values"):
        settings.path(task, ending).unlink(missing_ok=True)


class _Rows:
    """Writes the tables of a task while it is scanned."""

    def __init__(self, files: ExitStack, task: CleanTask, settings: CleanSettings) -> None:
        self._tables = {
            ending: files.enter_context(new_file(settings.path(task, ending), buffering=1 << 20))
            for ending in settings.tables
        }
        near = settings.config.near_duplicates
        self._sketcher = Sketcher(near) if near.enabled else None

    def add(self, text: str) -> None:
        if "digests" in self._tables:
            self._tables["digests"].write(digest_text(text))
        if self._sketcher:
            values = self._sketcher.sketch(text)
            self._tables["bands"].write(self._sketcher.band_keys(values).tobytes())
            stored = self._sketcher.empty() if values is None else values
            self._tables["values"].write(stored.tobytes())


def _read(task: CleanTask, options: ReadOptions) -> Iterator[Document | Skipped]:
    for piece in task.pieces:
        yield from read_piece(piece, options)


def _write_part(
    path: Path | None, candidates: Path, duplicates: NDArray[np.uint8], counts: Counts
) -> None:
    with ExitStack() as files:
        lines = files.enter_context(write_lines(path)) if path else None
        for line, code in zip(read_lines(candidates), duplicates.tolist(), strict=True):
            if code == KEPT:
                assert lines is not None
                lines.write(line)
                counts.keep(1, len(line))
            else:
                counts.drop(_RULE_OF[code], json.loads(line)["source"])


def _load(task: CleanTask, ending: str, settings: CleanSettings) -> CleanMarker | None:
    path = settings.path(task, ending)
    return load_marker(path, CleanMarker, job_sha256=settings.job_sha256)
