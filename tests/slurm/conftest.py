"""The cluster that the tests of this folder share: four nodes on this machine."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from tests.slurm.cluster import SlurmCluster, why_no_cluster
from tests.slurm.cluster_runs import ClusterRun, train_locally
from tests.slurm.faults import (
    WAIT_SECONDS,
    Launch,
    RecoveryTable,
    check_nothing_left,
    fault_config,
    shared_memory,
    temporary_folder,
)
from tests.slurm.interrupted_runs import long_config

RECOVERIES = pytest.StashKey[RecoveryTable]()
SOAKS = pytest.StashKey[list[str]]()


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


@pytest.fixture(scope="session")
def recovery_table(request: pytest.FixtureRequest) -> RecoveryTable:
    """Collects the seconds of recoveries, which are shown at the end."""
    return request.config.stash.setdefault(RECOVERIES, RecoveryTable())


@pytest.fixture(scope="session")
def soak_report(request: pytest.FixtureRequest) -> list[str]:
    """Lines about runs with many faults, which are shown at the end."""
    return request.config.stash.setdefault(SOAKS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows how long the recoveries from faults took, and where the time of long runs went."""
    if soaks := terminalreporter.config.stash.get(SOAKS, []):
        terminalreporter.section("runs with many faults")
        terminalreporter.write_line("\n".join(soaks))
    table = terminalreporter.config.stash.get(RECOVERIES, None)
    if table is not None and table.rows:
        terminalreporter.section("recoveries")
        terminalreporter.write_line(table.render())


@pytest.fixture
def temporary(cluster: SlurmCluster) -> Iterator[Path]:
    """The folder for temporary files of the test's job, in which nothing may be left."""
    shared_before = shared_memory()
    with temporary_folder() as folder:
        yield folder
        check_nothing_left(cluster, folder, shared_before)


@pytest.fixture(scope="session")
def uninterrupted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The run of `fault_config` without any fault, trained on this machine."""
    runs = tmp_path_factory.mktemp("uninterrupted")
    return train_locally(fault_config(corpus, runs), 2, runs)


@pytest.fixture(scope="session")
def uninterrupted_long(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The run of `long_config` without any interruption, trained on this machine."""
    runs = tmp_path_factory.mktemp("uninterrupted-long")
    return train_locally(long_config(corpus, runs), 2, runs)


@pytest.fixture
def launch(cluster: SlurmCluster, corpus: Path, tmp_path: Path, temporary: Path) -> Launch:
    """Submits a run with one rank on each node, and waits until it has taken some steps."""

    def submit(
        config: RunConfig | None = None,
        *,
        nodes: int = 2,
        step: int = 15,
        environment: Mapping[str, object] | None = None,
        **profile: Any,
    ) -> ClusterRun:
        run = ClusterRun(
            cluster,
            config or fault_config(corpus, tmp_path / "runs"),
            tmp_path,
            nodes=nodes,
            profile=profile,
            environment={"TMPDIR": temporary, **(environment or {})},
        )
        run.launch()
        if step:
            run.wait_for_step(step, timeout=WAIT_SECONDS)
        return run

    return submit
