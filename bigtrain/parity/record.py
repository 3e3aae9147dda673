"""What the ranks of a layout record: figures of each step, boxes of gradients and parameters.

Each rank writes the boxes that it keeps, as for a checkpoint that is never committed: in one folder
for gradients and one for parameters. No rank gathers a global tensor. No torch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bigtrain.checkpoint.reading import read_boxes
from bigtrain.checkpoint.schema import SCHEMA, read_json, write_json
from bigtrain.checkpoint.storage_folder import DiskFolder
from bigtrain.checkpoint.tensor_table import Entry, box_slices, ranks_with_tables, read_rank_table
from bigtrain.checkpoint.writing import Box, write_boxes

GRADIENT, PARAMETER = "gradient", "parameter"
_STEPS_FILE = "steps.json"

FloatArray = NDArray[np.float32]


def perturbed_folder(folder: Path, number: int) -> Path:
    """The folder for the record of a perturbed run; ``number`` counts from 1."""
    return folder / f"perturbed-{number}"


@dataclass(frozen=True, slots=True)
class RecordedBox:
    """One box of a global tensor, as one rank keeps it."""

    name: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    values: FloatArray
    is_first_replica: bool
    """Whether this is the first of equal copies on several ranks; only that one is the tensor."""

    @property
    def region(self) -> tuple[slice, ...]:
        """Where the box lies in its global tensor."""
        return box_slices(self.offset, self.values.shape)


@dataclass(frozen=True, slots=True)
class StepFigures:
    """The figures of a step, which are the same on every rank."""

    loss: float
    grad_norm: float


class RecordWriter:
    """Writes one rank's part of a record."""

    def __init__(self, folder: Path, *, rank: int) -> None:
        self._folder, self._rank = DiskFolder(folder), rank

    def write(self, kind: str, boxes: Iterable[RecordedBox]) -> None:
        """Writes all boxes of a kind that this rank keeps.

        Args:
            kind: ``gradient`` (of the first step) or ``parameter`` (after the last).
            boxes: The boxes.
        """
        own = self._folder.child(kind)
        own.make()
        keyed = ((_key(kind, box.name, box.is_first_replica), box) for box in boxes)
        write_boxes(
            own,
            (Box(key, box.global_shape, box.offset, box.values) for key, box in keyed),
            rank=self._rank,
        )

    def finish(self, steps: Sequence[StepFigures]) -> None:
        """Writes the figures of the steps, on rank 0 only."""
        if self._rank == 0:
            figures = {"schema": SCHEMA, "steps": [*map(asdict, steps)]}
            write_json(self._folder, _STEPS_FILE, figures)


class Record:
    """The record that all ranks of a layout wrote."""

    def __init__(self, folder: Path) -> None:
        """Reads the figures and the ranks' tables, not yet the boxes."""
        self._folder = DiskFolder(folder)
        self.steps = [StepFigures(**each) for each in read_json(self._folder, _STEPS_FILE)["steps"]]
        self._entries = {kind: self._read_tables(kind) for kind in (GRADIENT, PARAMETER)}

    def shapes(self, kind: str) -> dict[str, tuple[int, ...]]:
        """The global shape of every tensor, in the order in which they were written."""
        return {key.partition("/")[2]: shape for key, shape, _ in self._entries[kind]}

    def boxes(self, kind: str, name: str) -> Iterator[RecordedBox]:
        """The boxes of one tensor, all replicas of it.

        The next iteration overwrites the values.
        """
        first, shape = _key(kind, name, is_first_replica=True), self.shapes(kind)[name]
        entries = self._entries[kind]
        wanted = [(key, box) for key, _, box in entries if key.partition("/")[2] == name]
        for key, box, values in read_boxes(self._folder.child(kind), wanted):
            yield RecordedBox(name, shape, box.offset, values, is_first_replica=key == first)

    def _read_tables(self, kind: str) -> list[Entry]:
        folder = self._folder.child(kind)
        tables = (read_rank_table(folder, rank) for rank in ranks_with_tables(folder))
        return [entry for table in tables for entry in table]


def _key(kind: str, name: str, is_first_replica: bool) -> str:
    return f"{kind}/{name}" if is_first_replica else f"{kind}_replica/{name}"
