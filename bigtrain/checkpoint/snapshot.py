"""Copies an engine's state: the boxes that this rank saves, with values as numpy arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from bigtrain.checkpoint.schema import FIRST_MOMENT, KINDS, SECOND_MOMENT, WEIGHT
from bigtrain.checkpoint.tensor_table import box_slices
from bigtrain.checkpoint.writing import Box, cut_box
from bigtrain.engine.boxes import StateBox
from bigtrain.engine.engine import Engine
from bigtrain.parallel.device import copy_to_host, host_memory


@dataclass(frozen=True, slots=True)
class DeviceBox:
    """A box of a global tensor where the engine keeps it; ``values`` is a view, fp32."""

    key: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    values: torch.Tensor

    @property
    def bytes(self) -> int:
        """Bytes of the values."""
        return self.values.numel() * self.values.element_size()

    def on_host(self, values: torch.Tensor) -> Box:
        """The same box with these values, which are in host memory."""
        return Box(self.key, self.global_shape, self.offset, values.numpy())


def boxes_to_save(engine: Engine) -> list[DeviceBox]:
    """The boxes that this rank writes: of equal copies on several ranks, one rank writes each."""
    own = [box for box in engine.boxes() if box.is_first_replica]
    return [cut for key, box, view in tensors_of(own) for cut in _cut(key, box, view.detach())]


def tensors_of(
    boxes: Sequence[StateBox], kinds: Sequence[str] = KINDS
) -> Iterator[tuple[str, StateBox, torch.Tensor]]:
    """Key, box and view of each tensor whose values the boxes hold."""
    for box in boxes:
        views = {
            WEIGHT: box.master,
            FIRST_MOMENT: box.first_moment,
            SECOND_MOMENT: box.second_moment,
        }
        for kind in kinds:
            yield f"{kind}/{box.name}", box, views[kind]


def read_one_by_one(boxes: Sequence[DeviceBox]) -> Iterator[Box]:
    """The boxes in host memory: on a GPU a copy of one at a time, on CPU the memory itself."""
    for box in boxes:
        yield box.on_host(box.values.cpu())


class HostCopy:
    """Host memory for one copy of the boxes, reused by every save."""

    def __init__(self) -> None:
        self._memory: list[torch.Tensor] = []

    def take(self, boxes: Sequence[DeviceBox], device: torch.device) -> list[Box]:
        """Copies the present values of the boxes.

        Args:
            boxes: The same number and the same shapes each time, so that memory is reused.
            device: The device that holds them.
        """
        shapes = [box.values.shape for box in boxes]
        if [values.shape for values in self._memory] != shapes:
            self._memory = []  # Freed before the new memory is made: never two copies.
            self._memory = host_memory(shapes, device)
        pairs = list(zip((box.values for box in boxes), self._memory, strict=True))
        copy_to_host(pairs, device)
        return [box.on_host(copy) for box, (_, copy) in zip(boxes, pairs, strict=True)]


def _cut(key: str, box: StateBox, view: torch.Tensor) -> Iterator[DeviceBox]:
    for offset, shape in cut_box(tuple(view.shape), global_shape=box.global_shape):
        yield DeviceBox(
            key,
            box.global_shape,
            tuple(a + b for a, b in zip(box.offset, offset, strict=True)),
            view[box_slices(offset, shape)],
        )
