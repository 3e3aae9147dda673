"""A number of nodes that a run cannot use is refused with the nearest that it can."""

from pathlib import Path

import pytest

from bigtrain.config import ConfigError
from bigtrain.config.node_counts import check_node_count, fits_nodes
from tests.runs import tiny_config


@pytest.mark.parametrize(
    ("nodes", "ranks", "remedy"),
    [
        (3, 4, "use --nodes 2 or --nodes 4"),
        (9, 4, "use --nodes 8"),
        (1, 3, "use --nodes 2"),
    ],
)
def test_the_nearest_numbers_of_nodes_are_named(nodes: int, ranks: int, remedy: str) -> None:
    train = {"global_batch_size": 32, "micro_batch_size": 2}
    if ranks == 3:
        train = {"global_batch_size": 12, "micro_batch_size": 1}
    parallel = {"device": "cpu", "tensor": 2}
    config = tiny_config(Path("c"), Path("r"), train=train, parallel=parallel)
    with pytest.raises(ConfigError) as refused:
        check_node_count(config, nodes, ranks_per_node=ranks)
    assert remedy in str(refused.value)
    assert f"× {ranks} ranks = {nodes * ranks} ranks: " in str(refused.value)
    assert not fits_nodes(config, nodes, ranks_per_node=ranks)


def test_a_number_that_fits_is_accepted() -> None:
    config = tiny_config(Path("c"), Path("r"))
    check_node_count(config, 2, ranks_per_node=2)
    assert fits_nodes(config, 4, ranks_per_node=1)


def test_nodes_with_too_many_ranks_can_never_be_used() -> None:
    config = tiny_config(Path("c"), Path("r"))
    with pytest.raises(ConfigError, match="no number of nodes with 5 ranks each fits; change"):
        check_node_count(config, 2, ranks_per_node=5)
