"""Layouts: rank coordinates, batch ranks, replica ranks, and the layout's name."""

from dataclasses import fields

import pytest

from bigtrain.config.layout import Layout, RankCoordinates, saved_layout
from bigtrain.config.sections import ParallelConfig


def _groups(layout: Layout, *axes: str) -> set[tuple[int, ...]]:
    """The groups of ranks whose coordinates differ only in ``axes``."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for rank in range(layout.world_size):
        at = layout.coordinates(rank)
        kept = ("tensor", "context", "data", "pipeline")
        key = tuple(getattr(at, axis) for axis in kept if axis not in axes)
        groups.setdefault(key, []).append(rank)
    return {tuple(ranks) for ranks in groups.values()}


def test_tensor_ranks_are_adjacent_and_pipeline_stages_have_the_largest_stride() -> None:
    layout = Layout(tensor=2, data=2, pipeline=2)
    assert _groups(layout, "tensor") == {(0, 1), (2, 3), (4, 5), (6, 7)}
    assert _groups(layout, "data") == {(0, 2), (1, 3), (4, 6), (5, 7)}
    assert _groups(layout, "pipeline") == {(0, 4), (1, 5), (2, 6), (3, 7)}


def test_context_ranks_read_the_same_samples_and_reduce_gradients_together() -> None:
    layout = Layout(tensor=2, context=2, data=2)
    assert (layout.world_size, layout.batch_ranks, layout.replica_ranks) == (8, 2, 4)
    assert _groups(layout, "context") == {(0, 2), (1, 3), (4, 6), (5, 7)}
    assert _groups(layout, "context", "data") == {(0, 2, 4, 6), (1, 3, 5, 7)}
    assert [layout.coordinates(rank).replica for rank in (0, 2, 4, 6)] == [0, 1, 2, 3]


def test_expert_ranks_are_taken_from_the_replica_ranks() -> None:
    layout = Layout(expert=2, data=4)
    assert layout.world_size == 4
    assert [layout.coordinates(rank).expert for rank in range(4)] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "layout",
    [
        Layout(tensor=2, context=2, data=2, pipeline=2),
        Layout(expert=2, data=4, pipeline=2),
        Layout(tensor=2, context=2, expert=2, data=2),
    ],
)
def test_coordinates_equal_those_of_megatron_core(layout: Layout) -> None:
    from megatron.core.parallel_state import RankGenerator

    dense = RankGenerator(
        tp=layout.tensor,
        ep=1,
        dp=layout.data,
        pp=layout.pipeline,
        cp=layout.context,
        order="tp-cp-ep-dp-pp",
    )
    assert _groups(layout, "tensor") == set(map(tuple, dense.get_ranks("tp")))
    assert _groups(layout, "data") == set(map(tuple, dense.get_ranks("dp")))
    assert _groups(layout, "context", "data") == set(map(tuple, dense.get_ranks("dp-cp")))
    assert _groups(layout, "pipeline") == set(map(tuple, dense.get_ranks("pp")))
    experts = RankGenerator(
        tp=layout.tensor,
        ep=layout.expert,
        dp=layout.replica_ranks // layout.expert,
        pp=layout.pipeline,
        cp=1,
        order="tp-cp-ep-dp-pp",
    )
    for ranks in experts.get_ranks("ep"):
        assert [layout.coordinates(rank).expert for rank in ranks] == list(range(layout.expert))


def test_all_coordinates_of_one_process_are_zero() -> None:
    assert Layout().coordinates(0) == RankCoordinates(0, 0, 0, 0, 0, 0)
    assert Layout().name == "one process"


def test_a_layout_has_every_key_of_parallel_except_the_device() -> None:
    keys = set(ParallelConfig.model_fields) - {"device"}
    names = {field.name for field in fields(Layout)}
    assert keys <= names
    assert names - keys == {"data", "context", "expert"}
    for field in fields(Layout):
        if field.name in keys:
            assert field.default == ParallelConfig.model_fields[field.name].default


def test_a_record_without_the_newest_keys_is_read() -> None:
    assert saved_layout({}, world_size=2) == Layout(data=2)
    saved = saved_layout({"tensor": 2, "zero": 1, "unknown": 3}, world_size=4)
    assert saved == Layout(tensor=2, data=2, zero=1)
