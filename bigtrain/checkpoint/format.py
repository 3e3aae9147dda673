"""The files of a checkpoint and how they become one: schema, state, commit. No torch.

``step-00000100/`` holds ``state.json`` (where the run stands), ``tensors.json`` (where each box of
each tensor lies, with its crc32), ``rank-00000.bin`` … (the boxes), ``tokenizer.model``, and
``COMMIT.json``, written last, with the sizes and hashes that make the rest one whole.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "bigtrain-checkpoint/1"
STATE_FILE = "state.json"
TENSORS_FILE = "tensors.json"
COMMIT_FILE = "COMMIT.json"
TOKENIZER_FILE = "tokenizer.model"

WEIGHT, FIRST_MOMENT, SECOND_MOMENT = "weight", "first_moment", "second_moment"

CHECKPOINTS = "checkpoints"
"""The folder of a run's checkpoints, in its run folder."""

_STEP_FOLDER = re.compile(r"^step-(\d{8})$")


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one line and says which and why."""


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


def committed_folders(checkpoints: Path) -> list[Path]:
    """Checkpoints that carry a final name and a commit, newest first."""
    if not checkpoints.is_dir():
        return []
    found = [
        p
        for p in checkpoints.iterdir()
        if _STEP_FOLDER.match(p.name) and (p / COMMIT_FILE).is_file()
    ]
    return sorted(found, reverse=True)


def newest_whole(checkpoints: Path) -> tuple[Path | None, list[str]]:
    """Picks the newest checkpoint that is committed and whole.

    Returns:
        Its folder, or None when there is none, and one line for each newer one passed over.
    """
    passed_over = []
    for folder in committed_folders(checkpoints):
        try:
            check_commit(folder)
            read_state(folder)
        except CheckpointError as error:
            passed_over.append(f"passed over {folder.name}: {error}")
            continue
        return folder, passed_over
    return None, passed_over


def write_json(path: Path, value: Any) -> None:
    """Writes canonical JSON and waits until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def write_state(folder: Path, state: TrainState) -> None:
    """Writes ``state.json``."""
    write_json(folder / STATE_FILE, {"schema": SCHEMA, **asdict(state)})


def read_state(folder: Path) -> TrainState:
    """Reads ``state.json``.

    Raises:
        CheckpointError: It is missing, no JSON, or of another schema.
    """
    try:
        return TrainState(**read_json(folder / STATE_FILE))
    except TypeError as error:
        raise CheckpointError(f"{folder / STATE_FILE}: {error}; use another checkpoint") from None


def read_json(path: Path) -> dict[str, Any]:
    """Reads one of a checkpoint's JSON files and takes its schema off.

    Raises:
        CheckpointError: It is missing, no JSON, or of another schema.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        schema = value.pop("schema")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; use another checkpoint") from None
    except (ValueError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({error}); use another checkpoint"
        ) from None
    if schema != SCHEMA:
        raise CheckpointError(
            f"{path} has schema {schema}, this bigtrain reads {SCHEMA}; upgrade bigtrain"
        )
    return dict(value)


def commit(temporary: Path, final: Path) -> None:
    """Makes the files of ``temporary`` one checkpoint: sizes and hashes, then the name."""
    files = {path.name: _describe(path) for path in _contents(temporary)}
    for name in files:
        sync(temporary / name)
    write_json(temporary / COMMIT_FILE, {"schema": SCHEMA, "files": files})
    sync(temporary)
    temporary.rename(final)
    sync(final.parent)


def check_commit(folder: Path) -> None:
    """Checks that every committed file is there in its full size, and the JSON files unchanged.

    The boxes' own checksums are verified as they are read.

    Raises:
        CheckpointError: Something is missing or changed; names the file.
    """
    files = read_json(folder / COMMIT_FILE).get("files", {})
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; use another checkpoint")
        found = path.stat().st_size
        if found != expected["bytes"]:
            raise CheckpointError(
                f"{path} has {found} bytes, {expected['bytes']} were committed; "
                "use another checkpoint"
            )
        if "sha256" in expected and _sha256(path) != expected["sha256"]:
            raise CheckpointError(
                f"{path} was changed after it was committed; use another checkpoint"
            )


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _contents(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.iterdir() if path.name != COMMIT_FILE)


def _describe(path: Path) -> dict[str, Any]:
    described: dict[str, Any] = {"bytes": path.stat().st_size}
    if path.suffix != ".bin":
        described["sha256"] = _sha256(path)
    return described


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
