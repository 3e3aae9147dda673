"""Combines several step reducers into one, which shares the all-reduce of each step."""

from collections.abc import Sequence

from bigtrain.train.trainer import StepReducer


class CombinedReducers:
    """Joins the floats of several reducers; a `StepReducer` itself."""

    def __init__(self, reducers: Sequence[StepReducer]) -> None:
        self._reducers = reducers
        self._sizes: list[int] = []

    def contribution(self) -> Sequence[float]:
        """The floats of all reducers, in order."""
        parts = [reducer.contribution() for reducer in self._reducers]
        self._sizes = [len(part) for part in parts]
        return [number for part in parts for number in part]

    def receive(self, sums: Sequence[float]) -> None:
        """Gives each reducer the sums of its floats."""
        start = 0
        for reducer, size in zip(self._reducers, self._sizes, strict=True):
            reducer.receive(sums[start : start + size])
            start += size
