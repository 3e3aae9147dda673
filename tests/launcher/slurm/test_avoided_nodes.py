"""A job avoids the nodes that failed lately, as far as it can do without them."""

from pathlib import Path

import pytest

from launcher.excluded_nodes import remember_excluded
from launcher.slurm.avoided_nodes import find_nodes_to_avoid
from tests.launcher.slurm.fake_slurm import FakeSlurm


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A job of two nodes of a partition with four."""
    file = tmp_path / "runs" / "r" / "job.sh"
    file.parent.mkdir(parents=True)
    file.write_text("#!/bin/bash\n#SBATCH --nodes=2\n")
    return file


def _remember(script: Path, *nodes: str, hours: float = 24) -> None:
    remember_excluded(script.parents[1], nodes, reason="lost", run="r", hours=hours)


def test_no_command_is_needed_if_no_node_failed(slurm: FakeSlurm, script: Path) -> None:
    assert tuple(find_nodes_to_avoid(script)) == ()
    assert slurm.calls("sinfo") == []


def test_nodes_of_other_partitions_do_not_count(slurm: FakeSlurm, script: Path) -> None:
    _remember(script, "n4", "x1")
    assert tuple(find_nodes_to_avoid(script)) == ("n4",)
    assert [words[2] for words, _ in slurm.calls("sinfo")][-1] == "--partition=main"


def test_a_job_that_needs_the_nodes_avoids_those_that_failed_last(
    slurm: FakeSlurm, script: Path
) -> None:
    _remember(script, "n1", hours=3)
    _remember(script, "n2", hours=1)
    _remember(script, "n3", hours=2)
    assert find_nodes_to_avoid(script).failed == ("n1", "n3")


def test_the_nodes_that_the_script_excludes_stay_excluded(slurm: FakeSlurm, script: Path) -> None:
    script.write_text(script.read_text() + "#SBATCH --exclude='n[1,3]'\n")
    slurm.answer("scontrol", "show hostnames n[1,3]", "n1\nn3\n")
    _remember(script, "n2", "n3")
    nodes = find_nodes_to_avoid(script)
    # Without n1 and n3 there are just the two nodes that the job needs.
    assert tuple(nodes) == ("n1", "n3")
    script.write_text(script.read_text().replace("nodes=2", "nodes=1"))
    assert tuple(find_nodes_to_avoid(script)) == ("n1", "n3", "n2")
