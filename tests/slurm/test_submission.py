"""What `bigtrain launch --cluster` submits, on a real SLURM: the batch script, refusals, chains."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import load_config
from bigtrain.config.cluster import ClusterConfig
from bigtrain.config.yaml12 import render_yaml
from bigtrain.runs.job_file import load_job
from launcher.slurm.client import JobUnknownError, check_submission, requeue_job, show_job
from launcher.slurm.script import render_batch_script
from launcher.slurm.srun import render_srun_command
from launcher.slurm.submit import cancel_successors, find_active_jobs, submit_successor
from tests.launcher.slurm.golden_scripts import GOLDEN, NAMES, render_golden
from tests.runs import tiny_config
from tests.slurm.cluster import SlurmCluster

NASTY = 'it\'s 100% "a" $(x) #b é'
SUPERVISOR = '#!/bin/bash\nprintf "<%s>" "$@"\nkill -USR2 $$\necho " alive"\n'
"""Stands in for Python in these tests; as Python does at its start, it leaves USR2 ignored."""


@pytest.fixture
def work(cluster: SlurmCluster, corpus: Path, tmp_path: Path) -> Path:
    """A folder with a run and a profile; the supervisor only prints its arguments and waits."""
    folder = tmp_path / "work"
    folder.mkdir()
    supervisor = folder / "supervisor"
    supervisor.write_text(f"{SUPERVISOR}sleep 1000\n")
    supervisor.chmod(0o755)
    config = tiny_config(corpus, folder / "runs").model_dump(mode="json")
    (folder / "run.yaml").write_text(render_yaml(config))
    profile = {"ranks_per_node": 2, "cpus_per_rank": 2, "time": "00:20:00"}
    (folder / "mine.yaml").write_text(render_yaml({**profile, "python": str(supervisor)}))
    return folder


def launch(cluster: SlurmCluster, work: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", "launch", "run.yaml", "--cluster=mine.yaml", *words],
        cwd=work,
        env={**cluster.environment, "SLURM_JOB_ID": "1", "SBATCH_TIMELIMIT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def output_of(run_dir: Path, job: str) -> str:
    return (run_dir / "logs" / f"slurm-{job}.out").read_text()


def run_script(cluster: SlurmCluster, folder: Path, text: str) -> str:
    """Runs a batch script to its end; returns the job's id."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    job = cluster.submit(text)
    cluster.wait_state(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
    return job


def test_a_launched_run_is_in_the_queue_once_and_found_again(
    cluster: SlurmCluster, work: Path
) -> None:
    code, out = launch(cluster, work, "--nodes=2")
    assert code == 0, out
    run_dir = work / "runs" / "tiny"
    record = load_job(run_dir)
    assert record is not None
    (job,) = record.jobs
    assert f"as job {job}: 2 nodes × 2 ranks\n" in out
    cluster.wait_state(job, "RUNNING")
    fields = show_job(job)
    # The variables of the allocation in which `launch` seemed to run had no effect.
    assert (fields["TimeLimit"], fields["NumNodes"], fields["Requeue"]) == ("00:20:00", "2", "1")
    assert [each.job for each in find_active_jobs(run_dir)] == [job]
    code, out = launch(cluster, work, "--nodes=2")
    assert (code, len(out.splitlines())) == (2, 1)
    assert f"job {job} of this run is RUNNING; wait for it" in out
    cluster.run("scancel", job)
    cluster.wait_state(job, "CANCELLED")
    assert output_of(run_dir, job).startswith(f"<-m><bigtrain.cli><supervise><{run_dir}> alive")
    assert launch(cluster, work, "--nodes=1")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes=8", "train.global_batch_size=32"], "partition main has 4 nodes; use --nodes 4"),
        (["--nodes=2", "cluster.account=x", "cluster.sbatch=[--no-such]"], "unrecognized option"),
        (["--nodes=2", "cluster.cpus_per_rank=99"], "no nodes of the partition offer"),
        (["--nodes=2", "cluster.exclude=[n99]"], "a node in exclude"),
    ],
)
def test_what_this_cluster_cannot_run_is_one_line_and_leaves_nothing(
    words: list[str], message: str, cluster: SlurmCluster, work: Path
) -> None:
    code, out = launch(cluster, work, *words)
    assert code == 2
    assert message in out
    assert len(out.splitlines()) == 1
    assert not (work / "runs").exists()
    assert cluster.alive_jobs() == []


@pytest.mark.slow
def test_a_controller_that_is_down_is_one_line_and_leaves_nothing(
    cluster: SlurmCluster, work: Path
) -> None:
    cluster.stop_controller()
    try:
        code, out = launch(cluster, work, "--nodes=2")
    finally:
        cluster.start_controller()
    assert (code, len(out.splitlines())) == (2, 1)
    assert "SLURM's controller does not answer" in out
    assert not (work / "runs").exists()


def test_each_job_of_a_chain_has_one_successor_which_waits_for_its_end(
    cluster: SlurmCluster, work: Path
) -> None:
    launch(cluster, work, "--nodes=1", "cluster.restart=chain")
    run_dir = work / "runs" / "tiny"
    record = load_job(run_dir)
    assert record is not None
    (first,) = record.jobs
    cluster.wait_state(first, "RUNNING")
    second = submit_successor(run_dir, first)
    assert submit_successor(run_dir, first) == second
    assert show_job(second)["Dependency"].startswith(f"afterany:{first}")
    assert (show_job(second)["Requeue"], show_job(second)["JobName"]) == ("0", "tiny")
    cluster.run("scancel", first)
    cluster.wait_state(second, "RUNNING")
    third = submit_successor(run_dir, second)
    assert cancel_successors(run_dir, second) == [third]
    assert [each.job for each in find_active_jobs(run_dir)] == [second]


@pytest.mark.parametrize("name", NAMES)
def test_sbatch_accepts_every_golden_script_on_a_cluster_that_has_what_it_asks_for(
    name: str, cluster: SlurmCluster
) -> None:
    assert render_golden(name) == (GOLDEN / f"{name}.sh").read_text()
    names = ("partition", "account", "qos", "reservation", "constraint", "gpu_type")
    has = {
        **dict.fromkeys((*names, "memory_per_node")),
        "exclude": ("n4",),
        "gpus_per_node": 0,
        "gpu_request": "gres",
        "ranks_per_node": 4,
        "cpus_per_rank": 1,
        "spares": 0,
    }
    profile = load_config([f"configs/cluster/{name}.yaml"], ClusterConfig)
    text = render_batch_script(
        ClusterConfig.model_validate({**profile.model_dump(), **has}),
        name="llama-8b",
        run_dir=Path("/shared/runs/llama-8b"),
        nodes=2,
        python="python3",
        work_dir=Path("/tmp"),
    )
    assert " to start at " in check_submission(text)


def test_sbatch_reads_any_name_and_path_as_it_was_written(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    run_dir = tmp_path / "runs" / NASTY
    supervisor = tmp_path / "supervisor"
    supervisor.write_text(SUPERVISOR)
    supervisor.chmod(0o755)
    run_dir.mkdir(parents=True)
    text = render_batch_script(
        ClusterConfig(time="00:10:00"),
        name=NASTY,
        run_dir=run_dir,
        nodes=1,
        python=str(supervisor),
        work_dir=run_dir,
    )
    job = run_script(cluster, run_dir, text)
    assert output_of(run_dir, job) == f"<-m><bigtrain.cli><supervise><{run_dir}> alive\n"
    assert (show_job(job)["JobName"], show_job(job)["WorkDir"]) == (NASTY, str(run_dir))


AGENT = 'echo "$SLURMD_NODENAME $SLURM_LOCALID $SLURM_CPUS_PER_TASK"; [ $SLURM_PROCID != 1 ]'


@pytest.mark.parametrize(
    ("keys", "tasks"),
    [
        ({"cpus_per_rank": 2}, [f"{node} {task} 2" for node in ("n1", "n2") for task in (0, 1)]),
        pytest.param(
            *({"cpus_per_rank": 2, "starter": "torchrun"}, ["n1 0 4", "n2 0 4"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *({}, [f"{node} {task} " for node in ("n1", "n2") for task in (0, 1)]),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_agents_start_on_every_node_and_the_end_of_one_does_not_end_the_others(
    keys: dict[str, Any], tasks: list[str], cluster: SlurmCluster, tmp_path: Path
) -> None:
    profile = ClusterConfig(ranks_per_node=2, time="00:10:00", **keys)
    run_dir = tmp_path / "run"
    text = render_batch_script(
        profile, name="x", run_dir=run_dir, nodes=2, python="python3", work_dir=tmp_path
    )
    agent = ["bash", "-c", f"{AGENT} || exit 3; sleep 2; echo done"]
    first = shlex.join(render_srun_command(profile, nodes=2, agent_command=agent))
    # A second step beside the first: after a restart, old agents may still be ending.
    second = shlex.join(render_srun_command(profile, nodes=2, agent_command=["echo", "second"]))
    body = f"{first} & sleep 1; {second}; wait $!; echo code $?\n"
    job = run_script(cluster, run_dir, text.partition("exec ")[0] + body)
    lines = output_of(run_dir, job).splitlines()
    assert sorted(line for line in lines if line.startswith("n")) == sorted(tasks)
    assert lines.count("done") == len(tasks) - 1
    assert lines.count("second") == len(tasks)
    assert lines.index("second") < lines.index("done")
    assert lines[-1] == "code 3"


def test_a_job_that_slurm_does_not_know_is_told_apart(cluster: SlurmCluster) -> None:
    for ask in (show_job, requeue_job):
        with pytest.raises(JobUnknownError, match="SLURM does not know this job"):
            ask("999999")


def test_cluster_init_describes_this_cluster(cluster: SlurmCluster, tmp_path: Path) -> None:
    for partition, restart in (("main", "requeue"), ("cancel", "chain")):
        out = tmp_path / f"{partition}.yaml"
        words = ["cluster", "init", "--partition", partition, "--out", str(out)]
        cluster.run(sys.executable, "-m", "bigtrain.cli", *words)
        profile = load_config([str(out)], ClusterConfig)
        assert (profile.partition, profile.restart) == (partition, restart)
        assert json.loads(profile.model_dump_json())["gpus_per_node"] == 0
