"""Which nodes get ranks."""

from dataclasses import replace

from launcher.supervisor.placement import place_nodes
from launcher.supervisor.values import Policy, Resources

FOUR = Resources(
    nodes=("n1", "n2", "n3", "n4"),
    ranks_per_node=2,
    full_world_size=8,
    world_sizes=(8, 6, 4, 2),
    can_requeue=True,
)
RIGID, ELASTIC = Policy(), Policy(elastic=True)


def test_all_ranks_are_placed_on_the_first_nodes_and_the_others_are_spares() -> None:
    assert place_nodes(replace(FOUR, nodes=(*FOUR.nodes, "n5")), RIGID) == (FOUR.nodes, 8)


def test_too_few_nodes_are_not_enough_unless_the_run_is_elastic() -> None:
    three = replace(FOUR, nodes=("n1", "n3", "n4"))
    assert place_nodes(three, RIGID) is None
    assert place_nodes(three, ELASTIC) == (("n1", "n3", "n4"), 6)


def test_an_elastic_run_gets_the_largest_number_of_ranks_that_its_config_allows() -> None:
    three = replace(FOUR, nodes=("n1", "n3", "n4"), world_sizes=(8, 4, 2))
    assert place_nodes(three, ELASTIC) == (("n1", "n3"), 4)


def test_an_elastic_run_has_its_full_size_when_the_nodes_are_enough() -> None:
    assert place_nodes(FOUR, ELASTIC) == (FOUR.nodes, 8)


def test_the_last_node_may_have_fewer_ranks() -> None:
    three = replace(FOUR, nodes=("n1", "n2", "n3"), world_sizes=(8, 5))
    assert place_nodes(three, ELASTIC) == (("n1", "n2", "n3"), 5)


def test_nodes_that_cannot_hold_any_allowed_number_of_ranks_are_not_enough() -> None:
    assert place_nodes(replace(FOUR, nodes=("n1",), world_sizes=(8, 4)), ELASTIC) is None
    assert place_nodes(replace(FOUR, nodes=()), ELASTIC) is None
