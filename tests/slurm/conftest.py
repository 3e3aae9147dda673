"""The cluster that the tests of this folder share: four nodes on this machine."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import SlurmCluster, why_no_cluster


@pytest.fixture(scope="session", autouse=True)
def needs_slurm() -> None:
    """Skips the tests of this folder on a machine that cannot run SLURM's daemons."""
    reason = why_no_cluster()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_cluster(needs_slurm: None) -> Iterator[SlurmCluster]:
    """A cluster of four nodes for all tests; tests use `cluster`."""
    with SlurmCluster() as cluster:
        yield cluster
    assert cluster.leftovers() == []


@pytest.fixture
def cluster(
    shared_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmCluster]:
    """Four idle nodes without jobs, which this process and what it starts use by default.

    After the test every job is ended, and every daemon that the test killed is started again.
    """
    for name, value in shared_cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield shared_cluster
    shared_cluster.reset()
