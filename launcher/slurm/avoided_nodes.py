"""Which nodes the next job of a run must not get.

SLURM never starts a job that excludes more nodes than its partition can spare, and does not say so
when the list of a waiting job is changed: it sets the job's priority to zero. So only as many nodes
are excluded as the job can do without.
"""

import logging
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.excluded_nodes import ExcludedNode, load_excluded
from launcher.slurm.client import expand_node_list, list_partition_nodes, list_partitions

logger = logging.getLogger(__name__)

_OPTION = "#SBATCH "


@dataclass(frozen=True, slots=True)
class NodesToAvoid:
    """The nodes that the next job must not get. Both parts are empty if no node has failed lately:
    the list that the job has then stays as it is."""

    of_script: tuple[str, ...]
    """Those of ``--exclude`` in the batch script."""
    failed: tuple[str, ...]
    """Those of the partition that failed lately, and that the job can do without."""

    def __iter__(self) -> Iterator[str]:
        return iter((*self.of_script, *self.failed))


def find_nodes_to_avoid(script: Path) -> NodesToAvoid:
    """Finds the nodes that a job must not get.

    Args:
        script: The batch script in the run folder, whose parent remembers failed nodes.

    Raises:
        SlurmError: The nodes of the partition cannot be found out.
        OSError: There is no script.
    """
    remembered = load_excluded(script.parent.parent)
    if not remembered:
        return NodesToAvoid((), ())
    options = _read_options(script.read_text(encoding="utf-8"))
    of_script = expand_node_list(options.get("exclude", ""))
    partition = options.get("partition") or _default_partition()
    nodes = list_partition_nodes(partition)
    there = [each for each in remembered if each.node in nodes and each.node not in of_script]
    spare = len(set(nodes) - set(of_script)) - _first_number(options.get("nodes", "1"))
    # Those that failed last are avoided first.
    newest = sorted(there, key=lambda each: each.until, reverse=True)
    _warn_about(newest[max(spare, 0) :], partition)
    avoided = {each.node for each in newest[: max(spare, 0)]}
    return NodesToAvoid(of_script, tuple(each.node for each in there if each.node in avoided))


def _warn_about(nodes: list[ExcludedNode], partition: str) -> None:
    if nodes:
        logger.warning(
            "the job needs the nodes of partition %s, so it may get %s again",
            partition,
            "; ".join(f"{each.node} ({each.run}: {each.reason})" for each in nodes),
        )


def _read_options(script_text: str) -> dict[str, str]:
    """The options for sbatch in a script; of an option that is there twice, the last."""
    lines = (line for line in script_text.splitlines() if line.startswith(_OPTION))
    words = (word for line in lines for word in shlex.split(line.removeprefix(_OPTION)))
    pairs = (word.removeprefix("--").partition("=") for word in words if word.startswith("--"))
    return {name: value for name, _, value in pairs}


def _default_partition() -> str:
    return next((each.name for each in list_partitions() if each.is_default), "")


def _first_number(text: str) -> int:
    """The number of nodes in a count such as 4 or 4-8."""
    first = text.partition("-")[0]
    return int(first) if first.isdecimal() else 1
