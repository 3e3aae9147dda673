"""A job that could never start is refused with the facts of its partition."""

from typing import Any

import pytest

from bigtrain.config.cluster import ClusterConfig
from launcher.slurm.client import SlurmError
from launcher.slurm.partitions import check_partition, gpus_of
from tests.launcher.slurm.fake_slurm import SHOW_PARTITION, SINFO, FakeSlurm


def check(nodes: int, *excluded: str, **keys: Any) -> list[str]:
    cluster = ClusterConfig(**keys)
    return check_partition(cluster, nodes, fits=lambda n: n % 2 == 0, excluded=excluded)


@pytest.mark.parametrize(
    ("nodes", "keys", "message"),
    [
        (2, {"partition": "mian"}, "no such partition; did you mean main? It has main, small, gpu"),
        (6, {}, "--nodes 6: partition main has 4 nodes; use --nodes 4"),
        (4, {"spares": 1}, "--nodes 4 and 1 spare: partition main has 4 nodes; use --nodes 2"),
        (4, {"exclude": ["n1"]}, "4 nodes, of which 1 are excluded; use --nodes 2"),
        (4, {"spares": 3}, "use another partition or fewer spares"),
        (2, {"gpus_per_node": 8}, "the nodes of partition main have other GPUs (none)"),
        (
            2,
            {"partition": "gpu", "gpus_per_node": 8, "gpu_type": "a100"},
            "gpus_per_node=8 of gpu_type=a100: the nodes of partition gpu have other GPUs (gpu:h10",
        ),
        (2, {"partition": "gpu", "gpus_per_node": 9}, "gpus_per_node=9: the nodes of partition"),
        (2, {"time": "3-00:00:00"}, "time=3-00:00:00 is longer than partition main allows, 2-0"),
        (2, {"time": "infinite"}, "time=infinite is longer than partition main allows"),
        (2, {"warning_seconds": 3600}, "ends the job after 01:00:00: warning_seconds=3600"),
    ],
)
def test_a_job_that_could_never_start_is_refused(
    nodes: int, keys: dict[str, Any], message: str, slurm: FakeSlurm
) -> None:
    with pytest.raises(SlurmError) as refused:
        check(nodes, **keys)
    assert message in str(refused.value)


def test_a_job_that_fits_is_accepted(slurm: FakeSlurm) -> None:
    assert check(2, spares=1, time="1-00:00:00") == []
    assert check(8, partition="gpu", gpus_per_node=8, gpu_type="h100") == []


def test_nodes_that_are_down_delay_a_job_but_do_not_refuse_it(slurm: FakeSlurm) -> None:
    (warning,) = check(2, partition="small", time="00:20:00")
    assert "1 of 2 nodes are down or drained; the job waits for them" in warning


def test_a_limit_on_the_nodes_of_a_job_counts(slurm: FakeSlurm) -> None:
    slurm.answer(
        *("scontrol", "show partition"), SHOW_PARTITION.replace("MaxNodes=UNLIMITED", "MaxNodes=3")
    )
    with pytest.raises(SlurmError, match="has 4 nodes and allows 3 for a job; use --nodes 2"):
        check(4)


def test_nodes_to_avoid_in_another_partition_do_not_count(slurm: FakeSlurm) -> None:
    assert check(4, "x9") == []
    with pytest.raises(SlurmError, match="of which 1 are excluded"):
        check(4, "n2", "x9")


def test_several_partitions_are_enough_if_one_can_run_the_job(slurm: FakeSlurm) -> None:
    assert check(4, partition="small,main", time="00:20:00") == []
    with pytest.raises(SlurmError, match="partition small has 2 nodes"):
        check(6, partition="small,main", time="00:20:00")


def test_a_cluster_without_a_default_partition_needs_one(slurm: FakeSlurm) -> None:
    slurm.answer("sinfo", "", SINFO.replace("*|up", "|up"))
    with pytest.raises(SlurmError, match="no default partition; set partition in the cluster"):
        check(2)


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("gpu:h100:8(S:0-1)", ("h100", 8)),
        ("gpu:4", (None, 4)),
        ("gpu", (None, 1)),
        ("nvme:1,gpu:a100-sxm:2(IDX:0-1)", ("a100-sxm", 2)),
        ("(null)", (None, 0)),
        ("mps:200", (None, 0)),
    ],
)
def test_gpus_are_counted_in_generic_resources(gres: str, expected: tuple[str, int]) -> None:
    assert gpus_of(gres) == expected
