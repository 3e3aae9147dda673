"""What makes a checkpoint complete: ``COMMIT.json``, written last. No torch.

It lists the other files, with their sizes and the hashes of the small ones.
"""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from bigtrain.checkpoint.schema import (
    COMMIT_FILE,
    SCHEMA,
    STATE_FILE,
    TENSORS_FILE,
    TOKENIZER_FILE,
    CheckpointError,
    StorageError,
    TrainState,
    canonical_json,
    read_json,
    read_state,
    unreadable,
    write_json,
)
from bigtrain.checkpoint.step_folders import final_name, named_folders
from bigtrain.checkpoint.storage_folder import Folder


def commit(written: Folder, sizes: Mapping[str, int], *, parent: Folder) -> Folder:
    """Makes the files of a folder one checkpoint: writes sizes and hashes, then renames it.

    The files of the ranks must be on the disk already.

    Args:
        written: Holds the files.
        sizes: Bytes of each rank's file, as the rank reported.
        parent: The folder of checkpoints.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: A file does not have the size that its rank reported.
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
        {"schema": SCHEMA, "files": files, "crc32": zlib.crc32(canonical_json(files))},
    )
    written.settle()
    final = final_name(written)
    if final != written.name:
        written = written.rename(final)
        parent.settle()
    return written


def read_commit(folder: Folder) -> dict[str, dict[str, Any]]:
    """Reads the list of a checkpoint's files: bytes of each, and sha256 of the small ones.

    Raises:
        CheckpointError: ``COMMIT.json`` is missing or was changed.
    """
    committed = read_json(folder, COMMIT_FILE)
    files = committed.get("files")
    if (
        not isinstance(files, dict)
        or not {STATE_FILE, TENSORS_FILE} <= set(files)
        or not all(isinstance(each, dict) and "bytes" in each for each in files.values())
    ):
        raise CheckpointError(f"{folder}/{COMMIT_FILE} lists no files; use another checkpoint")
    # The earliest checkpoints have no checksum here.
    checksum = _checksum(files)
    if checksum is None or committed.get("crc32", checksum) != checksum:
        raise CheckpointError(f"{folder}/{COMMIT_FILE} fails its checksum; use another checkpoint")
    return files


def check_commit(folder: Folder) -> None:
    """Checks that every committed file has its size, and that the small files are unchanged.

    The checksums of the boxes are verified when they are read.

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


def open_state(folder: Folder) -> TrainState:
    """Checks that a checkpoint is complete, and reads its training state.

    Raises:
        CheckpointError: It is not complete; one line.
    """
    check_commit(folder)
    return read_state(folder)


def newest_complete(checkpoints: Folder) -> tuple[Folder | None, list[str]]:
    """Picks the newest complete checkpoint; its tensors are not read.

    Returns:
        Its folder, or None when there is none, and one line for each newer one that was skipped.

    Raises:
        StorageError: The storage failed to read one.
    """
    skipped = []
    for folder in named_folders(checkpoints):
        try:
            open_state(folder)
        except StorageError:
            raise
        except CheckpointError as error:
            skipped.append(f"skipped {folder.name}: {error}")
            continue
        return folder, skipped
    return None, skipped


def no_complete_checkpoint_error(checkpoints: Folder, reasons: Sequence[str]) -> CheckpointError:
    """The error for a run whose checkpoints are all unreadable.

    Args:
        checkpoints: The folder of the run's checkpoints.
        reasons: Why each was skipped, newest first.
    """
    remedy = "restore one, or move them away to start the run from the beginning"
    if any("upgrade bigtrain" in reason for reason in reasons):
        remedy = f"upgrade bigtrain, {remedy}"
    shown = [reason.removeprefix("skipped ") for reason in reasons[:3]]
    listed = "; ".join(reason.rpartition("; ")[0] or reason for reason in shown)
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return CheckpointError(f"{checkpoints}: no checkpoint can be read: {listed}{more}; {remedy}")


def _checksum(value: Any) -> int | None:
    """None if the value has text that is not valid Unicode, which we never write."""
    try:
        return zlib.crc32(canonical_json(value))
    except UnicodeEncodeError:
        return None


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
