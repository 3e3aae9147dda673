"""The files of a checkpoint and how they become one: schema, state, commit. No torch.

``step-00000100/`` holds ``state.json`` (where the run stands), ``tensors.json`` (where each box of
each tensor lies, with its crc32), ``rank-00000.bin`` … (the boxes), ``tokenizer.model``, and
``COMMIT.json``, written last, with the sizes and hashes that make the rest one whole.

On a disk the folder is called ``step-00000100.tmp-2`` (2 is the attempt) until it is committed. In
an object store it is ``step-00000100.try-2`` from the start, and ``COMMIT.json`` alone makes it a
checkpoint; no two attempts ever write into one folder.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bigtrain.checkpoint.folder import Folder

SCHEMA = "bigtrain-checkpoint/1"
STATE_FILE = "state.json"
TENSORS_FILE = "tensors.json"
COMMIT_FILE = "COMMIT.json"
TOKENIZER_FILE = "tokenizer.model"

WEIGHT, FIRST_MOMENT, SECOND_MOMENT = "weight", "first_moment", "second_moment"
KINDS = (WEIGHT, FIRST_MOMENT, SECOND_MOMENT)

CHECKPOINTS = "checkpoints"
"""The folder of a run's checkpoints, in its run folder."""

_STEP_FOLDER = re.compile(r"^step-(\d{8,})(?:\.try-(\d+))?$")
_OF_AN_ATTEMPT = re.compile(r"\.(?:tmp|try|bad|rewound)-(\d+)$")


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one line and says which and why."""


class StorageError(CheckpointError):
    """The storage does not let a checkpoint be read, which may well be whole: none is passed over.

    Who went on from an older one would train again what is only out of reach for a minute.
    """


class SaveError(RuntimeError):
    """A checkpoint could not be written; the message is one line and says which and why."""


@dataclass(frozen=True, slots=True)
class TrainState:
    """Where a run stands, without its tensors."""

    step: int
    """Steps taken."""
    samples: int
    """Samples consumed; the next batch begins at this number."""
    tokens: int
    """Tokens trained on."""
    optimizer_steps: int
    """Updates that Adam has made, for its bias correction."""
    data_stages: list[dict[str, Any]]
    """What the samples were read from, since which sample."""
    config: dict[str, Any]
    """The resolved config of the attempt."""
    tokenizer_sha256: str
    wandb_id: str | None = None
    guard: dict[str, Any] = field(default_factory=dict)
    """The recent past that updates are judged by; empty in older checkpoints."""


def folder_name(step: int) -> str:
    """The name of the committed checkpoint of ``step``."""
    return f"step-{step:08d}"


def step_of(folder: Folder) -> int:
    """The step of a checkpoint, from its folder's name."""
    match = _STEP_FOLDER.match(folder.name)
    assert match is not None, folder.name
    return int(match[1])


def new_folder(checkpoints: Folder, step: int, *, attempt: int) -> Folder:
    """Where an attempt writes the checkpoint of a step, until it is committed."""
    word = "tmp" if checkpoints.renames else "try"
    return checkpoints.child(f"{folder_name(step)}.{word}-{attempt}")


def newest_attempt(checkpoints: Folder) -> int:
    """The newest attempt that has left its number here, 0 without any: run folders can get lost."""
    found = (_OF_AN_ATTEMPT.search(name) for name in checkpoints.names())
    return max((int(match[1]) for match in found if match is not None), default=0)


def final_name(written: Folder) -> str:
    """The name that what was written in a ``new_folder`` has once it is committed."""
    return written.name.split(".tmp-")[0]


def named_folders(checkpoints: Folder) -> list[Folder]:
    """All that have a checkpoint's name, newest first, whether they can be read or not.

    In an object store, and in what was copied from one, a folder without a commit is one that is
    being written, or never was whole.
    """
    found = []
    for name in checkpoints.names():
        match = _STEP_FOLDER.match(name)
        if match is None:
            continue
        folder = checkpoints.child(name)
        has_its_last_name = checkpoints.renames and match[2] is None
        if has_its_last_name or folder.size(COMMIT_FILE) is not None:
            found.append((int(match[1]), int(match[2] or 0), folder))
    return [folder for _, _, folder in sorted(found, key=lambda each: each[:2], reverse=True)]


def committed_folders(checkpoints: Folder) -> list[Folder]:
    """Checkpoints that carry a final name and a commit, newest first."""
    return [f for f in named_folders(checkpoints) if f.size(COMMIT_FILE) is not None]


def newest_whole(checkpoints: Folder) -> tuple[Folder | None, list[str]]:
    """Picks the newest checkpoint that is committed and whole, without reading its tensors.

    Returns:
        Its folder, or None when there is none, and one line for each newer one passed over.

    Raises:
        StorageError: Nobody can tell whether one is whole.
    """
    passed_over = []
    for folder in named_folders(checkpoints):
        try:
            open_state(folder)
        except StorageError:
            raise
        except CheckpointError as error:
            passed_over.append(f"passed over {folder.name}: {error}")
            continue
        return folder, passed_over
    return None, passed_over


def none_is_whole(checkpoints: Folder, reasons: Sequence[str]) -> CheckpointError:
    """The error for a run all of whose checkpoints were passed over.

    Args:
        checkpoints: The run's.
        reasons: Why each was, newest first.
    """
    remedy = "bring one back, or move them away to begin the run anew"
    if any("upgrade bigtrain" in reason for reason in reasons):
        remedy = f"upgrade bigtrain, {remedy}"
    shown = [reason.removeprefix("passed over ") for reason in reasons[:3]]
    listed = "; ".join(reason.rpartition("; ")[0] or reason for reason in shown)
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return CheckpointError(f"{checkpoints}: no checkpoint can be read: {listed}{more}; {remedy}")


def open_state(folder: Folder) -> TrainState:
    """Checks that a checkpoint is committed and whole, and reads where the run stood.

    Raises:
        CheckpointError: It is not; one line.
    """
    check_commit(folder)
    return read_state(folder)


def write_json(folder: Folder, name: str, value: Any) -> None:
    """Writes canonical JSON that will survive a power cut."""
    folder.write(name, _canonical(value) + b"\n")


def write_state(folder: Folder, state: TrainState) -> None:
    """Writes ``state.json``."""
    write_json(folder, STATE_FILE, {"schema": SCHEMA, **asdict(state)})


def read_state(folder: Folder) -> TrainState:
    """Reads ``state.json``.

    Raises:
        CheckpointError: It is missing, no JSON, or of another schema.
    """
    try:
        return TrainState(**read_json(folder, STATE_FILE))
    except TypeError as error:
        raise CheckpointError(f"{folder}/{STATE_FILE}: {error}; use another checkpoint") from None


def read_json(folder: Folder, name: str) -> dict[str, Any]:
    """Reads one of a checkpoint's JSON files and takes its schema off.

    Raises:
        CheckpointError: It cannot be read, is no JSON, or of another schema.
    """
    path = f"{folder}/{name}"
    try:
        value = json.loads(folder.read(name).decode("utf-8"))
        schema = value.pop("schema")
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({error}); use another checkpoint"
        ) from None
    if schema != SCHEMA:
        raise CheckpointError(
            f"{path} has schema {schema}, this bigtrain reads {SCHEMA}; upgrade bigtrain"
        )
    return dict(value)


def unreadable(path: str, error: OSError) -> CheckpointError:
    """What to raise for a file of a checkpoint that cannot be read.

    Args:
        path: Names it, for the message.
        error: What the file system says.

    Returns:
        A ``StorageError``, unless the file is not there.
    """
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path} is missing; use another checkpoint")
    reason = error.strerror or error
    if isinstance(error, NotADirectoryError | IsADirectoryError):
        return CheckpointError(f"{path}: {reason}; use another checkpoint")
    return StorageError(
        f"{path}: {reason}; try again when the storage answers, or move this checkpoint away to "
        "go on from the one before it"
    )


def is_as_written(folder: Folder, name: str) -> bool:
    """Whether a JSON file is to the byte what ``write_json`` makes of its content."""
    content = folder.read(name)
    try:
        return content == _canonical(json.loads(content)) + b"\n"
    except ValueError:
        return False


def commit(written: Folder, sizes: Mapping[str, int], *, parent: Folder) -> Folder:
    """Makes the files of a folder one checkpoint: sizes and hashes, then the name.

    What ranks wrote they have waited for; this writes the marker.

    Args:
        written: Holds the files.
        sizes: Bytes of each rank's file, as the rank says.
        parent: The folder of checkpoints.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: A file is not as long as its rank says.
    """
    files: dict[str, dict[str, Any]] = {}
    for name, size in sizes.items():
        if (found := written.size(name)) != size:
            raise CheckpointError(f"{written}/{name} has {found} bytes, its rank wrote {size}")
        files[name] = {"bytes": size}
    for name in (STATE_FILE, TENSORS_FILE, TOKENIZER_FILE):
        files[name] = {"bytes": written.size(name), "sha256": _sha256(written, name)}
    written.settle()
    write_json(
        written,
        COMMIT_FILE,
        {"schema": SCHEMA, "files": files, "crc32": zlib.crc32(_canonical(files))},
    )
    written.settle()
    final = final_name(written)
    if final != written.name:
        written = written.rename(final)
        parent.settle()
    return written


def read_commit(folder: Folder) -> dict[str, dict[str, Any]]:
    """The files of a checkpoint: the bytes of each and, of the small ones, the sha256.

    Raises:
        CheckpointError: There is no marker, or it is not as it was written.
    """
    committed = read_json(folder, COMMIT_FILE)
    files = committed.get("files")
    if (
        not isinstance(files, dict)
        or not {STATE_FILE, TENSORS_FILE} <= set(files)
        or not all(isinstance(each, dict) and "bytes" in each for each in files.values())
    ):
        raise CheckpointError(f"{folder}/{COMMIT_FILE} lists no files; use another checkpoint")
    # Checkpoints of the first days have no checksum here.
    checksum = _checksum(files)
    if checksum is None or committed.get("crc32", checksum) != checksum:
        raise CheckpointError(f"{folder}/{COMMIT_FILE} fails its checksum; use another checkpoint")
    return files


def check_commit(folder: Folder) -> None:
    """Checks that every committed file is there in its full size, and the JSON files unchanged.

    The boxes' own checksums are verified as they are read.

    Raises:
        CheckpointError: Something is missing or changed; names the file.
    """
    for name, expected in read_commit(folder).items():
        found = _size(folder, name)
        if found is None:
            raise CheckpointError(f"{folder}/{name} is missing; use another checkpoint")
        if found != expected["bytes"]:
            raise CheckpointError(
                f"{folder}/{name} has {found} bytes, {expected['bytes']} were committed; "
                "use another checkpoint"
            )
        if "sha256" in expected and _sha256(folder, name) != expected["sha256"]:
            raise CheckpointError(
                f"{folder}/{name} was changed after it was committed; use another checkpoint"
            )


def _checksum(value: Any) -> int | None:
    """None where the value is none that we write: text that is no Unicode."""
    try:
        return zlib.crc32(_canonical(value))
    except UnicodeEncodeError:
        return None


def _canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")


def _size(folder: Folder, name: str) -> int | None:
    try:
        return folder.size(name)
    except OSError as error:
        raise unreadable(f"{folder}/{name}", error) from None


def _sha256(folder: Folder, name: str) -> str:
    try:
        return hashlib.sha256(folder.read(name)).hexdigest()
    except OSError as error:
        raise unreadable(f"{folder}/{name}", error) from None
