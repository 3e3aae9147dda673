"""What a rank writes down in a layout, and how it is read back: boxes of tensors on disk. No torch.

One rank holds a share of the model and writes that alone; the whole is never gathered.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRADIENT, PARAMETER = "gradient", "parameter"

FloatArray = NDArray[np.float32]


def perturbed_folder(folder: Path, number: int) -> Path:
    """Where the record of a perturbed run goes, which is numbered from 1."""
    return folder / f"perturbed-{number}"


@dataclass(frozen=True, slots=True)
class Box:
    """One box of a global tensor, in a rank's file."""

    kind: str
    """``gradient`` (of the first step) or ``parameter`` (after the last)."""
    name: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    is_first_replica: bool
    """Of equal copies on several ranks, the one that counts as the tensor."""
    file: str
    start: int
    """In bytes."""

    @property
    def region(self) -> tuple[slice, ...]:
        """Where the box lies in its global tensor."""
        return tuple(slice(o, o + n) for o, n in zip(self.offset, self.shape, strict=True))


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What every rank knows of a step."""

    loss: float
    grad_norm: float


class RecordWriter:
    """Writes one rank's boxes, and at the end the table of them."""

    def __init__(self, folder: Path, *, rank: int) -> None:
        self._table = folder / f"rank-{rank:05d}.json"
        self._path = folder / f"rank-{rank:05d}.bin"
        self._file = self._path.open("wb")
        self._boxes: list[Box] = []

    def add(
        self,
        values: FloatArray,
        *,
        kind: str,
        name: str,
        global_shape: Sequence[int],
        offset: Sequence[int],
        is_first_replica: bool,
    ) -> None:
        """Writes one box, fp32."""
        box = Box(
            kind=kind,
            name=name,
            global_shape=tuple(global_shape),
            offset=tuple(offset),
            shape=values.shape,
            is_first_replica=is_first_replica,
            file=self._path.name,
            start=self._file.tell(),
        )
        self._file.write(np.ascontiguousarray(values, dtype=np.float32).data)
        self._boxes.append(box)

    def finish(self, steps: Sequence[StepFigures]) -> None:
        """Writes the table; without it the rank did not come to its end."""
        self._file.close()
        table = {"steps": [*map(asdict, steps)], "boxes": [*map(asdict, self._boxes)]}
        self._table.write_text(json.dumps(table), encoding="utf-8")


class Record:
    """What all ranks of a layout wrote."""

    def __init__(self, folder: Path) -> None:
        """Reads the ranks' tables, not yet the boxes."""
        tables = [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]
        self._folder = folder
        self.steps = [StepFigures(**figures) for figures in tables[0]["steps"]]
        self._boxes = [_box(fields) for table in tables for fields in table["boxes"]]

    def shapes(self, kind: str) -> dict[str, tuple[int, ...]]:
        """The global shape of every tensor, in the order in which it was written."""
        return {box.name: box.global_shape for box in self._boxes if box.kind == kind}

    def boxes(self, kind: str, name: str) -> Iterator[tuple[Box, FloatArray]]:
        """The boxes of one tensor, replicas too, each with its values."""
        for box in self._boxes:
            if (box.kind, box.name) == (kind, name):
                yield box, self._read(box)

    def _read(self, box: Box) -> FloatArray:
        count = int(np.prod(box.shape, dtype=np.int64))
        values = np.fromfile(self._folder / box.file, np.float32, count=count, offset=box.start)
        return values.reshape(box.shape)


def _box(fields: dict[str, Any]) -> Box:
    lists = {key: tuple(fields[key]) for key in ("global_shape", "offset", "shape")}
    return Box(**{**fields, **lists})
