"""Keeps the verified exports of a run's checkpoints in the run folder, so that each is made once.

``RUN/exported/`` holds a folder for each export, and beside it ``NAME.json`` with the sizes and
hashes of its files, written last. A name contains the checkpoint's step and a hash of its
``COMMIT.json``, which lists the hashes of the checkpoint's tensors, state and tokenizer.
"""

import hashlib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EPERM, EROFS
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bigtrain.checkpoint.commit import open_state
from bigtrain.checkpoint.find_checkpoint import find_checkpoint
from bigtrain.checkpoint.schema import COMMIT_FILE
from bigtrain.checkpoint.step_folders import CHECKPOINTS
from bigtrain.checkpoint.storage_folder import DiskFolder, Folder
from bigtrain.config.saved import CONFIG_FILE
from bigtrain.convert.export import export_hugging_face
from data_tools.files import file_sha256, render_json, write_file
from data_tools.locks import try_lock, wait_for_lock

log = logging.getLogger(__name__)

EXPORTS = "exported"
"""The folder of a run's exports, in its run folder."""
KEPT_EXPORTS = 2
"""How many exports of a run are kept: those that were used last."""
_NAME = re.compile(r"step-\d{8,}-[0-9a-f]{16}")
_LOCK = "lock"
_VERIFIED = "with the checkpoint's logits and tokenizer"
_HASHED_BYTES = 2**26
"""Larger files, which are weights, are recognised by their size and time of change."""


@contextmanager
def verified_export(place: str, *, report: Callable[[str], Any]) -> Iterator[Path]:
    """Gives the verified export of a checkpoint; of a run's checkpoint, one that is kept.

    While the block runs, no other process removes the folder.

    Args:
        place: A checkpoint or a run folder; a path or an fsspec URL.
        report: Receives a line that says whether anything was converted.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        ExportError: It cannot be exported, or the export differs from it.
    """
    checkpoint, skipped = find_checkpoint(place)
    for line in skipped:
        log.warning(line)
    step = open_state(checkpoint).step
    cache = None
    if (run := _run_of(place, checkpoint)) is not None:
        try:
            cache = _Cache(run / EXPORTS)
        except OSError as error:
            if error.errno not in (EACCES, EPERM, EROFS):
                raise
            report(f"{run / EXPORTS} cannot be written ({error.strerror}): the export is not kept")
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="bigtrain-") as temporary:
            folder = Path(temporary) / "export"
            export_hugging_face(str(checkpoint), folder)
            report(f"exported {checkpoint} for this call only, {_VERIFIED}")
            yield folder
        return
    with cache:
        yield cache.get(checkpoint, step, report)


class _Cache:
    """A folder of exports, locked for this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._lock = (folder / _LOCK).open("a")

    def __enter__(self) -> "_Cache":
        wait_for_lock(self._lock)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def get(self, checkpoint: Folder, step: int, report: Callable[[str], Any]) -> Path:
        """The export of a checkpoint, made now if there is none that is whole."""
        folder = self._folder / f"step-{step:08d}-{_key(checkpoint)}"
        problem = _problem(folder)
        if problem is None:
            report(f"using {folder}, verified when it was exported; nothing was converted")
        else:
            if folder.exists():
                report(f"{folder}: {problem}; exporting it again")
            self._clean(folder)
            export_hugging_face(str(checkpoint), folder)
            write_file(_record(folder), render_json({"files": _facts(folder)}))
            report(f"exported {checkpoint} to {folder}, {_VERIFIED}; the next call uses it")
        _record(folder).touch()
        self._prune(report)
        # Others may use exports now; only who has the lock alone removes one.
        try_lock(self._lock, shared=True)
        return folder

    def _clean(self, folder: Path) -> None:
        """Removes an export, and what killed processes left."""
        _remove(folder)
        for left in self._folder.glob(".step-*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _prune(self, report: Callable[[str], Any]) -> None:
        # A user's own folders may lie here too.
        folders = [each for each in self._folder.iterdir() if _NAME.fullmatch(each.name)]
        folders.sort(key=_last_use, reverse=True)
        for old in folders[KEPT_EXPORTS:]:
            _remove(old)
            report(f"removed {old}: the {KEPT_EXPORTS} exports that were used last are kept")


def _run_of(place: str, checkpoint: Folder) -> Path | None:
    """The run folder on this machine's disks that a checkpoint belongs to."""
    if (Path(place) / CONFIG_FILE).is_file():
        return Path(place)
    if isinstance(checkpoint, DiskFolder) and checkpoint.path.absolute().parent.name == CHECKPOINTS:
        run = checkpoint.path.parent.parent
        return run if (run / CONFIG_FILE).is_file() else None
    return None


def _key(checkpoint: Folder) -> str:
    """Changes with the checkpoint, and with the versions that export and verify it."""
    versions = [version("bigtrain"), version("transformers")]
    content = checkpoint.read(COMMIT_FILE) + json.dumps(versions).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _facts(folder: Path) -> dict[str, list[Any]]:
    """For each file its size, and its hash or, if it is large, when it was changed."""
    found: dict[str, list[Any]] = {}
    for file in sorted(folder.iterdir()):
        stat = file.stat()
        is_large = stat.st_size > _HASHED_BYTES
        found[file.name] = [stat.st_size, stat.st_mtime_ns if is_large else file_sha256(file)]
    return found


def _problem(folder: Path) -> str | None:
    """Why an export cannot be used; None if it is as it was written."""
    try:
        recorded = json.loads(_record(folder).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return "it was not finished"
    try:
        found = _facts(folder)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    for name in sorted({*recorded, *found}):
        if recorded.get(name) != found.get(name):
            return f"{name} was changed after it was verified"
    return None


def _last_use(folder: Path) -> float:
    try:
        return _record(folder).stat().st_mtime
    except OSError:
        return 0.0


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):  # First, so that a half removed export is never used.
        _record(folder).unlink()
    shutil.rmtree(folder, ignore_errors=True)
