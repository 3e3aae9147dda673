"""The files of a checkpoint and their schema, ``bigtrain-checkpoint/1``. No torch.

``step-00000100/`` holds ``state.json`` (the training state), ``tensors.json`` (the file, position
and crc32 of each box of each tensor), ``rank-00000.bin`` … (the boxes), ``tokenizer.model``, and
``COMMIT.json``, which is written last, with the sizes and hashes of the others.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from bigtrain.checkpoint.storage_folder import Folder

SCHEMA = "bigtrain-checkpoint/1"
STATE_FILE = "state.json"
TENSORS_FILE = "tensors.json"
COMMIT_FILE = "COMMIT.json"
TOKENIZER_FILE = "tokenizer.model"

WEIGHT, FIRST_MOMENT, SECOND_MOMENT = "weight", "first_moment", "second_moment"
KINDS = (WEIGHT, FIRST_MOMENT, SECOND_MOMENT)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one line with its path and the cause."""


class StorageError(CheckpointError):
    """The storage fails to read a checkpoint, which may be complete, so it is not skipped.

    Resuming from an older one would repeat steps, although the storage may soon work again.

    Args:
        message: One line.
        is_temporary: Whether it may work again without a change by the user.
    """

    def __init__(self, message: str, *, is_temporary: bool = True) -> None:
        super().__init__(message)
        self.is_temporary = is_temporary


@dataclass(frozen=True, slots=True)
class TrainState:
    """The training state of a run, without its tensors."""

    step: int
    """Steps taken."""
    samples: int
    """Samples consumed; the next batch begins at this number."""
    tokens: int
    """Tokens trained on."""
    optimizer_steps: int
    """Updates that Adam has made, for its bias correction."""
    data_stages: list[dict[str, Any]]
    """The records of the data phases, from ``record_phases``."""
    config: dict[str, Any]
    """The resolved config of the attempt."""
    tokenizer_sha256: str
    wandb_id: str | None = None
    guard: dict[str, Any] = field(default_factory=dict)
    """The recent losses and norms that updates are compared with; empty in older checkpoints."""
    origin: dict[str, Any] | None = None
    """Of an import: the folder that the weights come from, and what was found there. None if a run
    saved the checkpoint."""

    @property
    def has_moments(self) -> bool:
        """Whether a run may continue from it; an import has weights only, and a run begins."""
        return self.origin is None

    @property
    def first_skipped(self) -> int | None:
        """If the newest update was skipped, the step of the first of those skipped in a row."""
        in_a_row = self.guard.get("skipped_in_a_row", 0)
        return self.step - in_a_row + 1 if in_a_row else None


def write_json(folder: Folder, name: str, value: Any) -> None:
    """Writes canonical JSON that will survive a power cut."""
    folder.write(name, canonical_json(value) + b"\n")


def write_state(folder: Folder, state: TrainState) -> None:
    """Writes ``state.json``."""
    values = asdict(state)
    if state.origin is None:  # So that earlier versions can read it.
        del values["origin"]
    write_json(folder, STATE_FILE, {"schema": SCHEMA, **values})


def read_state(folder: Folder) -> TrainState:
    """Reads ``state.json``.

    Raises:
        CheckpointError: It is missing, not JSON, or of another schema.
    """
    try:
        return TrainState(**read_json(folder, STATE_FILE))
    except TypeError as error:
        raise CheckpointError(f"{folder}/{STATE_FILE}: {error}; use another checkpoint") from None


def read_json(folder: Folder, name: str) -> dict[str, Any]:
    """Reads one of a checkpoint's JSON files and returns it without its schema.

    Raises:
        CheckpointError: It cannot be read, is not JSON, or of another schema.
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
    """The error to raise for a file of a checkpoint that cannot be read.

    Args:
        path: The file, for the message.
        error: From the file system.

    Returns:
        A ``StorageError``, unless the file does not exist.
    """
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path} is missing; use another checkpoint")
    reason = error.strerror or error
    if isinstance(error, NotADirectoryError | IsADirectoryError):
        return CheckpointError(f"{path}: {reason}; use another checkpoint")
    return StorageError(
        f"{path}: {reason}; try again when the storage answers, or move this checkpoint away to "
        "resume from the one before it",
        is_temporary=not isinstance(error, PermissionError),
    )


def is_as_written(folder: Folder, name: str) -> bool:
    """Whether a JSON file has exactly the bytes that ``write_json`` writes for its content."""
    content = folder.read(name)
    try:
        return content == canonical_json(json.loads(content)) + b"\n"
    except ValueError:
        return False


def canonical_json(value: Any) -> bytes:
    """A value as JSON with sorted keys and no spaces, UTF-8: the same bytes every time."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")
