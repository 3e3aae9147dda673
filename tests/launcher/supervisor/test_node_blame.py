"""Lost nodes are to blame, unless their loss has a common cause."""

import pytest

from launcher.supervisor.node_blame import blame_lost_nodes


@pytest.mark.parametrize(
    ("lost", "used", "blamed"),
    [
        (["n2"], ["n1", "n2", "n3"], ("n2",)),
        (["n1"], ["n1"], ("n1",)),
        (["n4", "n2"], ["n1", "n2", "n3", "n4"], ("n2", "n4")),
        (["n1", "n2"], ["n1", "n2"], ()),
        (["n1", "n2", "n3"], ["n1", "n2", "n3", "n4"], ()),
        ([], ["n1", "n2"], ()),
    ],
)
def test_more_than_half_of_the_nodes_are_not_to_blame(lost, used, blamed):
    assert blame_lost_nodes(lost, used) == blamed


def test_no_node_is_to_blame_if_what_starts_the_agents_has_ended():
    assert blame_lost_nodes(["n2"], ["n1", "n2", "n3"], starter_ended=True) == ()
