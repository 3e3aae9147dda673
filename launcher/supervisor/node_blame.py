"""Decides whether lost nodes are themselves to blame for their loss. Pure.

Nodes to blame are avoided for a day, also by other runs. If srun itself failed, the profile names a
wrong network, or a shared file system held up all agents, most nodes seem lost, and none is broken.
"""

from collections.abc import Collection


def blame_lost_nodes(
    lost: Collection[str], used: Collection[str], *, starter_ended: bool = False
) -> tuple[str, ...]:
    """The lost nodes to blame, in order; empty if their loss has a common cause.

    Args:
        lost: Nodes that were lost together.
        used: The nodes of which they were lost, in order.
        starter_ended: Whether what starts all agents has ended, such as srun.
    """
    is_shared = len(lost) > 1 and 2 * len(lost) > len(used)
    if starter_ended or is_shared:
        return ()
    return tuple(node for node in used if node in lost)
