"""Runs on a real SLURM whose ranks are killed, stopped, raise errors, diverge or are slow."""

import shutil
import signal
import time
from pathlib import Path

import pytest

from bigtrain.config import RunConfig
from tests.diverging_runs import check_skipped, diverging_config, make_corpora
from tests.slurm.cluster import SlurmCluster
from tests.slurm.cluster_runs import ClusterRun, check_same_end
from tests.slurm.faults import (
    TEST_SECONDS,
    WAIT_SECONDS,
    Launch,
    RecoveryTable,
    fault_config,
    kinds,
    run_before,
    wait_for_recovery,
)
from tests.slurm.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_SECONDS)]
RANK_GOAL = 20.0
FAILURE_SECONDS = 30.0
HANG_SECONDS = 5

RAISES_AT_STEP_25 = """
    from bigtrain.environment import quiet_foreign_libraries
    quiet_foreign_libraries()
    from bigtrain.train.trainer import Trainer
    plain = Trainer._forward_step
    def forward_step(self, step, batch):
        if os.environ["RANK"] == "1" and step == 25:
            raise RuntimeError(f"broken on purpose by process {os.getpid()}")
        return plain(self, step, batch)
    Trainer._forward_step = forward_step
"""

SLOW_AFTER_STEP_5 = """
    import time
    from bigtrain.environment import quiet_foreign_libraries
    quiet_foreign_libraries()
    from bigtrain.train.trainer import Trainer
    plain = Trainer._forward_step
    def forward_step(self, step, batch):
        forward = plain(self, step, batch)
        def slow(*arguments, **more):
            time.sleep(0.02)
            return forward(*arguments, **more)
        return slow if os.environ["RANK"] == "1" and step > 5 else forward
    Trainer._forward_step = forward_step
"""


def _wait_for_end_of_attempt(run: ClusterRun) -> float:
    """Waits until an attempt has ended, and none of its ranks runs; returns the seconds."""
    begin = time.monotonic()
    wait_until(lambda: run.events("attempt_end"), WAIT_SECONDS, run.describe)
    return time.monotonic() - begin


def test_a_killed_rank_is_named_and_the_run_continues_in_the_same_job(
    launch: Launch, uninterrupted: RunConfig, recovery_table: RecoveryTable
) -> None:
    run = launch()
    node, died = run.node_of(1), time.time()
    run.ranks()[1].send_signal(signal.SIGKILL)
    assert _wait_for_end_of_attempt(run) < FAILURE_SECONDS
    recovery_table.add("a rank is killed", run, wait_for_recovery(run, died), RANK_GOAL)
    run.wait_end(timeout=WAIT_SECONDS)
    assert kinds(run) == ["rank_failed", "finished"]
    failed = run.events("attempt_end")[0]
    assert (failed["rank"], failed["nodes"]) == (1, [node])
    assert f"rank 1 on {node} failed first: killed by SIGKILL" in run.output()
    assert len(run.events("job_start")) == 1
    check_same_end(run, uninterrupted)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank_is_named_as_the_one_that_did_not_join_and_the_run_continues(
    launch: Launch, uninterrupted: RunConfig, recovery_table: RecoveryTable, rank: int
) -> None:
    run = launch(hang_seconds=HANG_SECONDS)
    node, stopped = run.node_of(rank), time.time()
    run.ranks()[rank].send_signal(signal.SIGSTOP)
    seconds = wait_for_recovery(run, stopped)
    recovery_table.add(
        f"rank {rank} hangs (limit {HANG_SECONDS} s)", run, seconds, HANG_SECONDS + RANK_GOAL
    )
    run.wait_end(timeout=WAIT_SECONDS)
    assert kinds(run) == ["hung", "finished"]
    hung = run.events("attempt_end")[0]
    assert (hung["rank"], hung["nodes"]) == (rank, [node])
    report = (run.folder / "logs/hang-1.txt").read_text()
    assert f"rank {rank} did not join (the process is stopped (SIGSTOP, or a debugger)" in report
    assert f"rank {1 - rank} waits in all_reduce, called by" in report
    assert f"rank {rank} on {node}: the process is stopped" in report
    check_same_end(run, uninterrupted)


def test_the_same_error_at_the_same_step_twice_ends_the_run_and_says_so(
    launch: Launch, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    run = launch(step=0, environment=run_before("train-rank", tmp_path / "code", RAISES_AT_STEP_25))
    run.wait_end("failed", timeout=WAIT_SECONDS)
    assert kinds(run) == ["rank_failed", "rank_failed"]
    ends, node = run.events("attempt_end"), "n2"
    assert [(end["rank"], end["last_step"], end["nodes"]) for end in ends] == [(1, 24, [node])] * 2
    (end,) = run.events("job_end")
    assert "the same error happened twice at step 24, so a restart would not help" in end["reason"]
    assert "RuntimeError: broken on purpose by process" in end["reason"]
    assert run.status()["state"] == "failed" and end["reason"] in run.status()["reason"]
    assert f"rank 1 on {node} failed first: RuntimeError: broken on purpose" in run.output()
    assert "| RuntimeError: broken on purpose" in run.output()  # The end of the traceback.
    assert run.cluster.state(run.job) == "FAILED"


def test_ranks_that_cannot_import_torch_end_the_run_after_the_second_time(
    launch: Launch, tmp_path: Path
) -> None:
    (tmp_path / "code/torch").mkdir(parents=True)
    (tmp_path / "code/torch/__init__.py").write_text(
        'raise ImportError("libtorch.so: cannot open shared object file")\n'
    )
    run = launch(step=0, environment={"PYTHONPATH": tmp_path / "code"})
    begin = time.monotonic()
    run.wait_end("failed", timeout=WAIT_SECONDS)
    assert time.monotonic() - begin < 2 * FAILURE_SECONDS
    assert kinds(run) == ["rank_failed", "rank_failed"]
    assert "libtorch.so: cannot open shared object file" in run.status()["reason"]


def test_a_corpus_that_vanished_while_the_job_waited_ends_the_run_with_one_line(
    cluster: SlurmCluster, launch: Launch, corpus: Path, tmp_path: Path
) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    others = cluster.submit("#!/bin/bash\nsleep 300\n", "--nodes=4", "--exclusive", "-o/dev/null")
    cluster.wait_state(others, "RUNNING")
    run = launch(fault_config(tmp_path / "corpus", tmp_path / "runs"), step=0)
    assert cluster.state(run.job) == "PENDING"
    shutil.rmtree(tmp_path / "corpus")
    cluster.run("scancel", others)
    run.wait_end("failed", timeout=WAIT_SECONDS)
    assert kinds(run) == ["bad_input"]
    (end,) = run.events("job_end")
    assert str(tmp_path / "corpus/train") in end["reason"]
    assert "Traceback" not in run.output()
    assert cluster.details(run.job)["ExitCode"] == "2:0"


def test_a_python_that_does_not_exist_ends_the_job_and_status_says_so(launch: Launch) -> None:
    run = launch(step=0, python="/no/such/python")
    run.cluster.wait_state(run.job, "FAILED")
    assert "/no/such/python" in run.output()
    told = run.bigtrain("status", str(run.folder)).stdout
    assert f"see {run.folder}/logs/slurm-{run.job}.out" in told, told


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_corpora(tmp_path_factory.mktemp("corpora"))


def test_a_diverged_run_rewinds_itself_past_the_bad_samples_and_finishes(
    launch: Launch, corpora: dict[str, Path], tmp_path: Path
) -> None:
    config = diverging_config(corpora, tmp_path / "runs", rewind=1)
    values = config.model_dump(mode="json")
    values["train"] |= {"micro_batch_size": 4, "log_every": 1}
    run = launch(RunConfig.model_validate(values), step=0)
    run.wait_end(timeout=WAIT_SECONDS)
    check_skipped(run.config)
    assert kinds(run) == ["diverged", "finished"]
    (rewind,) = run.events("rewind")
    assert (rewind["to"], rewind["skipped"]) == (5, {"first_sample": 64, "samples": 192})
    decision = run.events("decision")[0]
    assert decision["action"] == "rewind"
    assert "rewind 1 of 1: back to step 5" in decision["reason"]
    assert len(run.events("job_start")) == 1


def test_a_slow_rank_is_named_with_its_node_within_100_steps(
    launch: Launch, corpus: Path, tmp_path: Path
) -> None:
    train = {"steps": 400, "micro_batch_size": 1, "global_batch_size": 16}
    config = fault_config(corpus, tmp_path / "runs", train=train, validation={"every": 400})
    (tmp_path / "code").mkdir()
    slow = run_before("train-rank", tmp_path / "code", SLOW_AFTER_STEP_5)
    run = launch(config, step=5, environment=slow)
    wait_until(lambda: run.events("straggler"), WAIT_SECONDS, run.describe)
    (event,) = run.events("straggler")
    assert (event["rank"], event["node"]) == (1, run.node_of(1))
    assert event["step"] <= 5 + 100
    assert event["ratio"] > 1.2
    run.bigtrain("stop", str(run.folder))
    run.wait_end("stopped", timeout=WAIT_SECONDS)
