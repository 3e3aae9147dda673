"""Several reducers share the all-reduce of a step, and each receives the sums of its own floats."""

from collections.abc import Sequence

from bigtrain.train.step_reducers import CombinedReducers


class Reducer:
    def __init__(self, *floats: float) -> None:
        self.floats, self.sums = floats, None

    def contribution(self) -> Sequence[float]:
        return self.floats

    def receive(self, sums: Sequence[float]) -> None:
        self.sums = [*sums]


def test_each_reducer_receives_the_sums_of_its_own_floats() -> None:
    first, second, third = reducers = Reducer(1.0, 2.0), Reducer(), Reducer(3.0)
    combined = CombinedReducers(reducers)
    assert [*combined.contribution()] == [1.0, 2.0, 3.0]
    combined.receive([10.0, 20.0, 30.0])
    assert (first.sums, second.sums, third.sums) == ([10.0, 20.0], [], [30.0])
