"""SLURM's commands: what a real SLURM printed is understood, and every failure is one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.slurm import client
from launcher.slurm.client import (
    JobUnknownError,
    SlurmError,
    SlurmMissingError,
    SlurmTimeoutError,
    SlurmUnavailableError,
)
from tests.launcher.slurm.fake_slurm import CONTROLLER_DOWN, JOB_UNKNOWN, FakeSlurm, queue_line

SHOW_JOB = (
    "JobId=13 JobName=it's 100% a=b UserId=root(0) JobState=PENDING Reason=PartitionNodeLimit "
    "Dependency=(null) Requeue=1 Restarts=2 ReqB:S:C:T=0:0:*:* TRES=cpu=48,mem=187.50G,node=3 "
    "CPUs/Task=2 Command=/runs/a b/job.sh StdErr=/runs/x Power= \n"
)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "job.sh"
    file.write_text("#!/bin/bash\n#SBATCH --nodes=1\ntrue\n")
    return file


def test_a_script_is_submitted_once_and_its_job_id_returned(slurm: FakeSlurm, script: Path) -> None:
    assert client.submit_script(script, options=["--dependency=afterany:7"]) == "1234"
    ((words, _),) = slurm.calls("sbatch")
    assert words == ["--parsable", "--dependency=afterany:7", str(script)]


def test_the_job_id_of_a_federated_cluster_is_read(slurm: FakeSlurm, script: Path) -> None:
    slurm.answer("sbatch", "--parsable", "sbatch: welcome\n1234;alpha\n")
    assert client.submit_script(script) == "1234"
    slurm.answer("sbatch", "--parsable", "Hello!\n")
    with pytest.raises(SlurmError, match=r"not a job id; look for the job with `squeue --me`"):
        client.submit_script(script)


def test_no_variable_of_an_allocation_reaches_sbatch(
    slurm: FakeSlurm, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaking = ("SLURM_JOB_ID", "SLURM_CPU_BIND", "SBATCH_TIMELIMIT", "SRUN_DEBUG", "PMIX_RANK")
    keeping = ("SLURM_CONF", "SBATCH_ACCOUNT", "WANDB_API_KEY")
    for name in (*leaking, *keeping):
        monkeypatch.setenv(name, "1")
    client.submit_script(script)
    ((_, environment),) = slurm.calls("sbatch")
    assert not {*leaking} & {*environment}
    assert {*keeping} <= {*environment}


def test_an_account_of_the_environment_does_not_win_over_the_script() -> None:
    given = {"SBATCH_ACCOUNT": "mine", "SBATCH_QOS": "low"}
    assert client.clean_environment(given, "#SBATCH --account=a\n") == {"SBATCH_QOS": "low"}


def test_slurm_is_asked_about_a_script_without_submitting_it(slurm: FakeSlurm) -> None:
    answer = client.check_submission("#!/bin/bash\ntrue\n")
    assert answer.startswith("sbatch: Job 10 to start at 2026-01-01T12:00:00 using 4 processors")
    assert [words for words, _ in slurm.calls("sbatch")] == [["--test-only"]]


def test_a_queue_is_read_with_any_name_and_script(slurm: FakeSlurm) -> None:
    slurm.answer(
        *("squeue", ""),
        queue_line("7", "RUNNING", script="/runs/a b|c/job.sh") + queue_line("8", "COMPLETED"),
    )
    first, second = client.list_queue()
    assert (first.job, first.state, first.reason) == ("7", "RUNNING", "")
    assert (first.name, first.command) == ("it's | mine", "/runs/a b|c/job.sh")
    assert (first.num_nodes, first.nodes, first.time_left) == (2, "n[1-2]", "18:58")
    assert (first.is_active, second.is_active) == (True, False)


@pytest.mark.parametrize("state", ["PENDING", "REQUEUED", "COMPLETING", "SUSPENDED", "RUNNING"])
def test_a_job_that_may_run_again_is_active(slurm: FakeSlurm, state: str) -> None:
    slurm.answer("squeue", "", queue_line("7", state))
    assert client.list_queue()[0].is_active


def test_jobs_that_slurm_has_forgotten_are_left_out(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", "--jobs=3", "", JOB_UNKNOWN, 1)
    assert client.list_queue(["3"]) == []


def test_fields_with_blanks_equal_signs_and_slashes_are_read(slurm: FakeSlurm) -> None:
    slurm.answer("scontrol", "show job 13", SHOW_JOB)
    fields = client.show_job("13")
    assert fields["Reason"] == "PartitionNodeLimit"
    assert fields["TRES"] == "cpu=48,mem=187.50G,node=3"
    assert (fields["Dependency"], fields["Power"]) == ("", "")
    assert (fields["CPUs/Task"], fields["Command"]) == ("2", "/runs/a b/job.sh")


def test_the_configuration_and_node_lists_are_read(slurm: FakeSlurm) -> None:
    slurm.answer(
        "scontrol", "show config", "PreemptMode   = REQUEUE\nX = a=b\n\nSlurmctld(primary)\n"
    )
    slurm.answer("scontrol", "show hostnames", "n1\nn2\na07\n")
    assert client.show_config() == {"PreemptMode": "REQUEUE", "X": "a=b"}
    assert client.expand_node_list("n[1-2],a07") == ("n1", "n2", "a07")
    assert client.expand_node_list("") == ()
    assert client.list_partition_nodes("main") == ("n1", "n2", "n3", "n4")


def test_partitions_are_read_with_nodes_in_several_states(slurm: FakeSlurm) -> None:
    main, small, gpu = client.list_partitions()
    assert (main.name, main.is_default, main.is_up) == ("main", True, True)
    assert (main.num_nodes, main.num_usable, main.time_limit) == (4, 4, "2-00:00:00")
    assert (small.num_nodes, small.num_usable, small.is_default) == (2, 1, False)
    assert (gpu.cpus, gpu.memory_mb, gpu.gres) == (96, 2000000, ("gpu:h100:8(S:0-1)",))


def test_jobs_are_requeued_released_signalled_and_cancelled(slurm: FakeSlurm) -> None:
    slurm.answer("scontrol", "", "")
    client.requeue_job("7")
    client.release_job_now("7")
    client.exclude_nodes("7", ["n1", "n2"])
    client.signal_job("7.0", "USR2")
    client.signal_job("7", "TERM", batch=True)
    client.cancel_job("7")
    assert [words for words, _ in slurm.calls("scontrol")] == [
        ["requeue", "7"],
        ["update", "JobId=7", "StartTime=now"],
        ["update", "JobId=7", "ExcNodeList=n1,n2"],
    ]
    assert [words for words, _ in slurm.calls("scancel")] == [
        ["--signal=USR2", "7.0"],
        ["--signal=TERM", "--batch", "7"],
        ["7"],
    ]


FAILURES: list[tuple[str, str, str, type[SlurmError], str]] = [
    ("sbatch", "", f"sbatch: error: Batch job submission failed: {CONTROLLER_DOWN}",
     SlurmUnavailableError, "jobs that run are not affected"),
    ("sbatch", "", "sbatch: error: Batch job submission failed: Socket timed out on send/recv "
     "operation\n", SlurmTimeoutError, "may have taken effect"),
    ("sbatch", "", "sbatch: error: fetch_config: DNS SRV lookup failed\n"
     "sbatch: fatal: Could not establish a configuration source\n",
     SlurmMissingError, "run this on a login node"),
    ("sbatch", "", "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job "
     "submission failed: Invalid partition name specified\n", SlurmError, "`sinfo -s` lists"),
    ("sbatch", "", "sbatch: error: Batch job submission failed: Invalid account or "
     "account/partition combination specified\n", SlurmError, "set account (and qos)"),
    ("sbatch", "", "sbatch: error: Batch job submission failed: Requested time limit is invalid "
     "(missing or exceeds some limit)\n", SlurmError, "set time in the cluster profile"),
    ("sbatch", "", "sbatch: error: Invalid generic resource (gres) specification\n",
     SlurmError, "set gpus_per_node, gpu_type or gpu_request"),
    ("sbatch", "", "allocation failure: Requested node configuration is not available\n",
     SlurmError, "no nodes of the partition offer"),
    ("sbatch", "", "sbatch: unrecognized option '--foo'\nTry \"sbatch --help\" for more "
     "information\n", SlurmError, "correct sbatch in the cluster profile"),
    ("scontrol", "requeue", "Invalid job id specified for job 7\n", JobUnknownError, "ended"),
    ("scontrol", "requeue", "Unexpected message received for job 7\n",
     SlurmUnavailableError, "does not answer"),
    ("scontrol", "requeue", "something new\n", SlurmError, "scontrol requeue 7: something new"),
    ("scontrol", "requeue", "", SlurmError, "failed with exit code 1"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "part", "stderr", "kind", "message"), FAILURES)
def test_a_failure_is_one_line_with_its_remedy(
    command: str,
    part: str,
    stderr: str,
    kind: type[SlurmError],
    message: str,
    slurm: FakeSlurm,
    script: Path,
) -> None:
    slurm.answer("sbatch", "--parsable", "", stderr, 1)
    slurm.answer(command, part, "", stderr, 1)
    with pytest.raises(SlurmError) as refused:
        client.submit_script(script) if command == "sbatch" else client.requeue_job("7")
    assert type(refused.value) is kind
    assert message in str(refused.value)
    assert str(refused.value).startswith(command)
    assert "\n" not in str(refused.value)


def test_cancelling_a_job_that_has_ended_is_no_error(slurm: FakeSlurm) -> None:
    slurm.answer("scancel", "", "", "scancel: error: Kill job error on job id 7: Invalid job id "
                 "specified\n", 1)  # fmt: skip
    client.cancel_job("7")


@pytest.mark.parametrize(
    "call",
    [client.list_partitions, client.list_queue, client.show_config, lambda: client.cancel_job("7")],
)
def test_a_machine_without_slurm_says_so(
    call: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmMissingError, match="SLURM is not installed; run this on a login node"):
        call()


def test_a_command_that_hangs_is_given_up(slurm: FakeSlurm) -> None:
    (slurm.folder / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(SlurmTimeoutError, match="squeue did not answer"):
        client.list_queue(timeout=0.2)
