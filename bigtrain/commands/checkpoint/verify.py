"""`bigtrain checkpoint verify`: reads every byte and shows a line for each fault. No torch.

``COMMIT.json`` has the sizes of all files and the hashes of the small ones. One of these, the table
of tensors, has a checksum of every box. So any changed byte is found.
"""

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

from bigtrain.checkpoint.commit import read_commit
from bigtrain.checkpoint.object_store import FileToRead
from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import (
    COMMIT_FILE,
    KINDS,
    STATE_FILE,
    TENSORS_FILE,
    TOKENIZER_FILE,
    WEIGHT,
    CheckpointError,
    TrainState,
    is_as_written,
    read_json,
    read_state,
)
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.checkpoint.tensor_table import SavedBox, SavedTensor
from bigtrain.commands.checkpoint.box_coverage import (
    box_fault,
    coverage_faults,
    file_coverage_faults,
)
from bigtrain.commands.checkpoint.formatting import render_bytes, show_read_progress
from bigtrain.commands.checkpoint.listing import step_in_name
from data_tools.progress import Advance

_READ_BYTES = 16 * 2**20
"""Adjacent boxes are read together up to this size."""

_Boxes = list[tuple[str, SavedBox]]
"""The boxes of one file with their tensors' keys, in file order."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of verifying a checkpoint."""

    folder: Folder
    faults: tuple[str, ...]
    """One line for each fault; empty if the checkpoint is complete."""
    step: int | None
    """None if the state cannot be read."""
    tensors: int
    bytes: int
    """Bytes of the boxes that were read."""
    not_finite: dict[str, int]
    """Number of values that are NaN or infinite, by tensor. They are not faults."""
    seconds: float


def verify_checkpoint(folder: Folder, *, workers: int = 1) -> Verification:
    """Reads every byte of a checkpoint, and changes nothing.

    Args:
        folder: A checkpoint, committed or not.
        workers: Number of threads; each reads a different file.
    """
    started = time.monotonic()
    faults: list[str] = []
    committed = _check_files(folder, faults)
    state = _check_state(folder, faults)
    has_moments = state is None or state.has_moments
    tensors = _check_tensors(folder, faults, kinds=KINDS if has_moments else (WEIGHT,))
    boxes = _valid_boxes(folder, tensors, faults)
    total = sum(box.bytes for some in boxes.values() for _, box in some)
    with show_read_progress(f"verifying {folder.name}", total) as advance:
        readings = _read_files(folder, boxes, advance, workers=workers)
    for reading in readings:
        faults += _reading_faults(folder, reading, is_committed=reading.file in committed)
    return Verification(
        folder=folder,
        faults=tuple(faults),
        step=state.step if state is not None else None,
        tensors=len(tensors),
        bytes=sum(reading.bytes for reading in readings),
        not_finite=dict(sum((reading.not_finite for reading in readings), Counter())),
        seconds=time.monotonic() - started,
    )


def render_verification(result: Verification) -> Iterator[str]:
    """Renders a line for each fault, and a line that says whether the checkpoint is complete."""
    yield from result.faults
    if result.faults:
        count = "1 fault" if len(result.faults) == 1 else f"{len(result.faults)} faults"
        yield f"{result.folder}: not complete: {count}; use another checkpoint"
        return
    rate = result.bytes / max(result.seconds, 1e-9)
    wrong, first = sum(result.not_finite.values()), next(iter(result.not_finite), "")
    finite = "all values finite"
    if wrong:
        of = f"{len(result.not_finite)} tensors, {first} the first"
        finite = f"{wrong:,} values are not finite (of {of})"
    yield (
        f"{result.folder}: complete: step {result.step}, {result.tensors} tensors, "
        f"{render_bytes(result.bytes)} in {result.seconds:.2f} s ({render_bytes(rate)}/s), {finite}"
    )


def _check_files(folder: Folder, faults: list[str]) -> set[str]:
    """Checks ``COMMIT.json`` and the files that it lists; returns their names."""
    try:
        files = read_commit(folder)
    except CheckpointError as error:
        faults.append(str(error))
        return set()
    foreign = read_json(folder, COMMIT_FILE).keys() - {"files", "crc32"}
    if foreign or not is_as_written(folder, COMMIT_FILE):
        faults.append(f"{folder}/{COMMIT_FILE} was changed after it was written")
    for name, expected in files.items():
        try:
            fault = _file_fault(folder, name, expected)
        except OSError as error:
            fault = f"cannot be read ({error.strerror or error})"
        if fault is not None:
            faults.append(f"{folder}/{name} {fault}")
    return set(files)


def _file_fault(folder: Folder, name: str, expected: dict[str, Any]) -> str | None:
    size = folder.size(name)
    if size is None:
        return "is missing"
    if size != expected["bytes"]:
        return f"has {size} bytes, {expected['bytes']} were committed"
    if "sha256" in expected and _sha256(folder, name) != expected["sha256"]:
        return "was changed after it was committed"
    return None


def _check_state(folder: Folder, faults: list[str]) -> TrainState | None:
    try:
        state = read_state(folder)
        tokenizer = folder.size(TOKENIZER_FILE) and _sha256(folder, TOKENIZER_FILE)
    except CheckpointError as error:
        faults.append(str(error))
        return None
    except OSError:  # Reported with the files.
        return state
    if tokenizer and tokenizer != state.tokenizer_sha256:
        faults.append(
            f"{folder}/{TOKENIZER_FILE} is not the tokenizer of {STATE_FILE} "
            f"({state.tokenizer_sha256[:12]})"
        )
    step = step_in_name(folder)
    if step is not None and step != state.step:
        faults.append(
            f"{folder}/{STATE_FILE} has step {state.step}, but its folder's name has step {step}"
        )
    return state


def _check_tensors(
    folder: Folder, faults: list[str], *, kinds: Sequence[str]
) -> dict[str, SavedTensor]:
    """Reads the table, and checks that each weight has its moments, unless it is an import."""
    table = CheckpointReader(folder)
    try:
        tensors = table.tensors
    except CheckpointError as error:
        faults.append(str(error))
        return {}
    names = dict.fromkeys(key.partition("/")[2] for key in tensors)
    for name in names:
        found = {kind: tensors[key] for kind in KINDS if (key := f"{kind}/{name}") in tensors}
        missing = [kind for kind in kinds if kind not in found]
        if missing:
            faults.append(f"{folder}/{TENSORS_FILE}: {name} has no {' and no '.join(missing)}")
        elif len({tensor.shape for tensor in found.values()}) > 1:
            faults.append(f"{folder}/{TENSORS_FILE}: {name}: its moments have different shapes")
    if not names:
        faults.append(f"{folder}/{TENSORS_FILE} lists no {WEIGHT}")
    return tensors


def _valid_boxes(
    folder: Folder, tensors: dict[str, SavedTensor], faults: list[str]
) -> dict[str, _Boxes]:
    """Returns the valid boxes by file, in file order; adds a fault for each invalid one."""
    boxes: dict[str, _Boxes] = defaultdict(list)
    table = f"{folder}/{TENSORS_FILE}"
    for key, tensor in tensors.items():
        wrong = [(box, fault) for box in tensor.boxes if (fault := box_fault(tensor, box))]
        faults += (f"{table}: {key}: the box at {box.offset} {fault}" for box, fault in wrong)
        if not wrong:
            faults += (f"{table}: {fault}" for fault in coverage_faults(tensor))
            for box in tensor.boxes:
                boxes[box.file].append((key, box))
    for some in boxes.values():
        some.sort(key=lambda each: each[1].start)
    return dict(sorted(boxes.items()))


@dataclass(slots=True)
class _Reading:
    """The result of reading one file."""

    file: str
    boxes: _Boxes
    size: int | None = None
    """None if there is no such file."""
    bytes: int = 0
    error: str | None = None
    failed: dict[str, list[SavedBox]] = field(default_factory=lambda: defaultdict(list))
    """Boxes whose checksum does not match, by tensor."""
    not_finite: Counter[str] = field(default_factory=Counter)


def _read_files(
    folder: Folder, boxes: dict[str, _Boxes], advance: Advance, *, workers: int
) -> list[_Reading]:
    lock = Lock()

    def read(file: str) -> _Reading:
        reading = _Reading(file, boxes[file])
        try:
            reading.size = folder.size(file)
            if reading.size is not None:
                with folder.opened(file) as opened:
                    for some in _adjacent(_within(reading.boxes, reading.size)):
                        _read_boxes(opened, some, reading)
                        with lock:
                            advance(sum(box.bytes for _, box in some))
        except OSError as error:
            reading.error = error.strerror or str(error)
        return reading

    with ThreadPoolExecutor(max(1, workers)) as pool:
        return [*pool.map(read, boxes)]


def _read_boxes(file: FileToRead, boxes: _Boxes, reading: _Reading) -> None:
    """Reads adjacent boxes together, and checks each box."""
    start = boxes[0][1].start
    data = memoryview(bytearray(max(box.start + box.bytes for _, box in boxes) - start))
    count = file.read_into(start, data)
    reading.bytes += count
    for key, box in boxes:
        part = data[box.start - start :][: box.bytes]
        if box.start - start + box.bytes > count or crc32(part) != box.crc32:
            reading.failed[key].append(box)
            continue
        values = np.frombuffer(part, dtype="<f4")
        if wrong := len(values) - int(np.count_nonzero(np.isfinite(values))):
            reading.not_finite[key] += wrong


def _reading_faults(folder: Folder, reading: _Reading, *, is_committed: bool) -> Iterator[str]:
    """Yields the faults found by reading a file, except those that ``COMMIT.json`` showed."""
    path = f"{folder}/{reading.file}"
    if reading.size is None:
        if not is_committed:
            yield f"{path} is missing, but {TENSORS_FILE} refers to it"
        return
    if reading.error is not None:
        yield f"{path} cannot be read ({reading.error})"
        return
    boxes = [box for _, box in reading.boxes]
    lost = len(boxes) - len(_within(reading.boxes, reading.size))
    if lost:
        yield f"{path} ends at byte {reading.size}: {lost} of its {len(boxes)} boxes are lost"
    else:
        yield from (
            f"{folder}/{line}" for line in file_coverage_faults(reading.file, reading.size, boxes)
        )
    count = Counter(key for key, _ in reading.boxes)
    for key, failed in reading.failed.items():
        yield (
            f"{path}: {key}: {len(failed)} of {count[key]} boxes fail their checksum, "
            f"the first at byte {failed[0].start}"
        )


def _within(boxes: _Boxes, size: int) -> _Boxes:
    return [(key, box) for key, box in boxes if box.start + box.bytes <= size]


def _adjacent(boxes: _Boxes) -> Iterator[_Boxes]:
    """Groups adjacent boxes, each group small enough to read at once."""
    some: _Boxes = []
    total = 0
    for key, box in boxes:
        follows = some and box.start == some[-1][1].start + some[-1][1].bytes
        if some and (not follows or total + box.bytes > _READ_BYTES):
            yield some
            some, total = [], 0
        some.append((key, box))
        total += box.bytes
    if some:
        yield some


def _sha256(folder: Folder, name: str) -> str:
    return hashlib.sha256(folder.read(name)).hexdigest()
