"""`bigtrain launch --cluster`: everything is checked first, and a refusal leaves nothing behind."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from bigtrain import cli
from bigtrain.config import load_run_config
from bigtrain.config.yaml12 import render_yaml
from bigtrain.runs.job_file import load_job
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.supervised_run import SupervisedTraining
from launcher.excluded_nodes import remember_excluded
from launcher.slurm import submit
from tests.bigtrain.commands.watched_runs import add_events
from tests.launcher.slurm.fake_slurm import CONTROLLER_DOWN, FakeSlurm, queue_line
from tests.runs import tiny_config

PROFILE: dict[str, Any] = {
    "partition": "main",
    "ranks_per_node": 2,
    "cpus_per_rank": 2,
    "time": "00:20:00",
    "restart": "requeue",
}


class Launcher:
    """Runs `bigtrain launch` in a folder with a run, a profile and a cluster."""

    def __init__(self, folder: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.slurm, self._capsys = folder, slurm, capsys
        self.run_dir = folder / "runs" / "tiny"
        self.script = str(self.run_dir / "job.sh")

    def __call__(self, *words: str, cluster: bool = True) -> tuple[int, str, str]:
        profile = ["--cluster", "mine.yaml"] if cluster else []
        sys.argv = ["bigtrain", "launch", "run.yaml", *profile, *words]
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = self._capsys.readouterr()
        return int(end.value.code or 0), out, err

    def refuses(self, *words: str, cluster: bool = True) -> str:
        """The one line of a refusal; neither a job nor a file is left."""
        before = sorted(self.folder.rglob("*"))
        code, out, err = self(*words, cluster=cluster)
        assert (code, out) == (2, "")
        assert err.startswith("bigtrain: ")
        assert len(err.splitlines()) == 1
        assert sorted(self.folder.rglob("*")) == before
        return err


@pytest.fixture
def launch(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Launcher:
    slurm = FakeSlurm(tmp_path / "slurm-commands")
    slurm.install()
    monkeypatch.setenv("PATH", slurm.path())
    monkeypatch.setattr(sys, "argv", sys.argv)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    config = tiny_config(corpus, Path("runs")).model_dump(mode="json")
    (folder / "run.yaml").write_text(render_yaml(config))
    (folder / "mine.yaml").write_text(render_yaml(PROFILE))
    return Launcher(folder, slurm, capsys)


def test_failures_before_a_launch_do_not_count_any_more(launch: Launcher) -> None:
    launch.run_dir.mkdir(parents=True)
    add_events(launch.run_dir, {"event": "job_start", "job": "6"}, {"event": "attempt_end"})
    assert launch("--nodes", "2")[0] == 0
    add_events(launch.run_dir, {"event": "job_start", "job": "1234"})
    run = SupervisedTraining(launch.run_dir, config_name="config-job.yaml", python="python")
    assert [event["job"] for event in run.history()] == ["1234"]


def test_a_run_is_submitted_with_all_its_files_and_the_next_commands_are_shown(
    launch: Launcher,
) -> None:
    code, out, err = launch("--nodes", "2", "train.steps=50", "cluster.spares=1")
    assert (code, err) == (0, "")
    assert out == (
        "submitted run tiny as job 1234: 2 nodes × 2 ranks, and 1 spare\n"
        "  bigtrain status runs/tiny\n  bigtrain logs -f runs/tiny\n  bigtrain stop runs/tiny\n"
    )
    record = load_job(launch.run_dir)
    assert record is not None
    assert (record.state, record.jobs, record.nodes, record.spares) == (
        *("submitted", ("1234",), 2, 1),
    )
    assert (record.world_size, record.cluster.partition) == (4, "main")
    assert load_run_config([str(launch.run_dir / "config-job.yaml")]).train.steps == 50
    assert (launch.run_dir / "wandb_id").read_text().strip()
    hashes = json.loads((launch.run_dir / "data-files.json").read_text())["files"]
    assert [Path(file["path"]).name for file in hashes[:2]] == ["manifest.json"] * 2
    assert (launch.run_dir / "logs").is_dir()
    calls = [words for words, _ in launch.slurm.calls("sbatch")]
    assert calls == [["--test-only"], ["--parsable", launch.script]]
    exec_line = (launch.run_dir / "job.sh").read_text().splitlines()[-1]
    assert exec_line == f"exec {sys.executable} -m bigtrain.cli supervise {launch.run_dir}"


def test_the_record_has_the_words_that_give_the_same_profile_without_secrets(
    launch: Launcher,
) -> None:
    assert launch("--nodes", "2", "cluster.spares=1", "cluster.environment.A_KEY=s3cret")[0] == 0
    record = load_job(launch.run_dir)
    assert record is not None
    file = str(launch.folder / "mine.yaml")
    secret = "cluster.environment.A_KEY=VALUE"
    assert record.profile == ("--cluster", file, "cluster.spares=1", secret)


def test_only_the_owner_may_read_the_files_that_hold_the_environment(launch: Launcher) -> None:
    secret = "cluster.environment.WANDB_API_KEY=s3cret"
    code, _, err = launch("--nodes", "2", secret)
    assert code == 0 and len(err.splitlines()) == 1
    assert err.startswith("warning: WANDB_API_KEY of the profile looks like a secret, and is")
    assert "wandb login" in err and "s3cret" not in err
    files = [file for file in launch.folder.rglob("*") if file.is_file()]
    holders = [file for file in files if b"s3cret" in file.read_bytes()]
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in holders}
    assert modes == {"job.json": 0o600, "job.sh": 0o600}


def test_a_launch_that_fails_restores_the_earlier_files_for_their_owner_only(
    launch: Launcher,
) -> None:
    assert launch("--nodes", "2")[0] == 0
    before = (launch.run_dir / "job.sh").read_text()
    launch.slurm.answer("squeue", "", "")
    launch.slurm.answer("sbatch", "--parsable", "", "sbatch: error: no", 1)
    assert launch("--nodes", "2", "cluster.spares=1")[0] == 2
    assert (launch.run_dir / "job.sh").read_text() == before
    assert {stat.S_IMODE((launch.run_dir / f"job.{s}").stat().st_mode) for s in ("json", "sh")} == {
        0o600
    }


def test_a_dry_run_prints_the_script_and_needs_no_slurm(
    launch: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(launch.folder))
    before = sorted(launch.folder.rglob("*"))
    code, out, err = launch("--nodes", "2", "--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith("#!/bin/bash\n")
    assert sorted(launch.folder.rglob("*")) == before
    assert launch("--nodes", "2", "--dry-run")[1] == out


def test_a_check_also_prints_what_slurm_says_and_submits_nothing(launch: Launcher) -> None:
    before = sorted(launch.folder.rglob("*"))
    code, out, err = launch("--nodes", "2", "--check")
    assert (code, out.splitlines()[0]) == (0, "#!/bin/bash")
    assert err.startswith("sbatch: Job 10 to start at 2026-01-01T12:00:00")
    assert [words for words, _ in launch.slurm.calls("sbatch")] == [["--test-only"]]
    assert sorted(launch.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--cluster needs --nodes N"),
        (("--nodes", "3"), "3 nodes × 2 ranks = 6 ranks: train.global_batch_size=8 is not a mul"),
        (("--nodes", "3"), "; use --nodes 2"),
        (("--nodes", "2", "cluster.partition=mian"), "did you mean main?"),
        (("--nodes", "2", "cluster.partitoin=main"), "mine.yaml: partitoin='main': there is no s"),
        (("--nodes", "2", "cluster.spares=3"), "--nodes 2 and 3 spare: partition main has 4 nodes"),
        (("--nodes", "2", "cluster.time=5-00"), "time=5-00 is longer than partition main allows"),
        (("--nodes", "2", "parallel.device=cuda"), "gpus_per_node of the cluster profile is 0"),
        (("--nodes", "2", "train.kernels=transformer_engine"), "Transformer Engine computes on"),
        (("--nodes", "2", "--processes", "4"), "--processes 4 is for this machine; with --cluster"),
        (("--nodes", "2", "data.train=nowhere"), "no corpus folder at nowhere"),
        (("--nodes", "2", "cluster.shared_folder=nowhere"), "shared_folder=nowhere: there is no"),
        (("--nodes", "2", "cluster.shared_folder=/usr"), "runs_dir=runs is not inside shared_fol"),
        (
            ("--nodes", "2", "cluster.container={runtime: pyxis, image: x, mounts: [/data]}"),
            "container.mounts: the run folder",
        ),
        (("--nodes", "2", r"runs_dir=a\b"), "sbatch takes no path with a backslash"),
    ],
)
def test_what_cannot_be_is_refused_before_the_queue(
    words: tuple[str, ...], message: str, launch: Launcher
) -> None:
    assert message in launch.refuses(*words)
    assert not [words for words, _ in launch.slurm.calls("sbatch") if "--parsable" in words]


def test_options_of_a_cluster_are_refused_without_one(launch: Launcher) -> None:
    words = ("--nodes", "2", "--dry-run", "cluster.spares=1")
    message = launch.refuses(*words, cluster=False)
    assert "cluster.spares=1, --nodes 2, --dry-run: for a cluster only; give its" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(launch: Launcher) -> None:
    (launch.folder / "runs").mkdir(mode=0o555)
    assert "no permission to write in" in launch.refuses("--nodes", "2")


def test_the_devices_of_this_machine_do_not_matter(launch: Launcher) -> None:
    words = ("cluster.partition=gpu", "cluster.gpus_per_node=8", "cluster.ranks_per_node=2")
    assert launch("--nodes", "2", *words, "parallel.device=cuda")[0] == 0


def test_a_request_that_no_node_can_fulfil_is_refused_though_sbatch_would_take_it(
    launch: Launcher,
) -> None:
    error = "allocation failure: Requested node configuration is not available\n"
    launch.slurm.answer("sbatch", "--test-only", "", error, 1)
    assert "no nodes of the partition offer" in launch.refuses("--nodes", "2")
    assert launch("--nodes", "2", "cluster.partition=small")[0] == 0  # One of its nodes is down.


@pytest.mark.parametrize(
    ("command", "part"), [("sinfo", ""), ("squeue", ""), ("sbatch", "--parsable")]
)
def test_if_the_controller_is_down_nothing_is_left_behind(
    command: str, part: str, launch: Launcher
) -> None:
    launch.slurm.answer(command, part, "", f"{command}: error: {CONTROLLER_DOWN}", 1)
    assert "SLURM's controller does not answer" in launch.refuses("--nodes", "2")


def test_without_slurm_nothing_is_left_behind(
    launch: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(launch.folder))
    assert "SLURM is not installed" in launch.refuses("--nodes", "2")


def test_a_job_that_sbatch_refuses_leaves_the_earlier_job_of_the_run_as_it_was(
    launch: Launcher,
) -> None:
    launch("--nodes", "2")
    before = {file.name: file.read_bytes() for file in launch.run_dir.iterdir() if file.is_file()}
    error = "sbatch: error: Batch job submission failed: Requested time limit is invalid\n"
    launch.slurm.answer("sbatch", "--parsable", "", error, 1)
    assert "set time in the cluster profile" in launch.refuses("--nodes", "1")
    after = {file.name: file.read_bytes() for file in launch.run_dir.iterdir() if file.is_file()}
    assert after == before


def test_a_run_whose_job_waits_or_runs_is_refused_here_too(launch: Launcher) -> None:
    launch("--nodes", "2")
    queued = queue_line("1234", "PENDING", script=launch.script, reason="Resources")
    launch.slurm.answer("squeue", "", queued)
    message = "job 1234 of this run is PENDING (Resources); wait for it, end it with `bigtrain st"
    assert message in launch.refuses("--nodes", "2")
    assert message in launch.refuses("--processes", "1", cluster=False)
    launch.slurm.answer("squeue", "", queue_line("1234", "COMPLETED", script=launch.script))
    assert launch("--nodes", "1")[0] == 0


def test_a_run_in_training_on_this_machine_is_refused(launch: Launcher) -> None:
    folder = RunFolder(launch.run_dir)
    folder.lock()
    assert "is training this run" in launch.refuses("--nodes", "2")


def test_a_job_that_was_submitted_but_not_noted_is_found_and_noted(launch: Launcher) -> None:
    launch("--nodes", "2")
    record = json.loads((launch.run_dir / "job.json").read_text())
    killed = {**record, "jobs": [], "state": "preparing"}
    (launch.run_dir / "job.json").write_text(json.dumps(killed))
    launch.slurm.answer("squeue", "", queue_line("77", "PENDING", script=launch.script))
    assert "job 77 of this run is PENDING" in launch.refuses("--nodes", "2")
    found = load_job(launch.run_dir)
    assert found is not None
    assert (found.jobs, found.state) == (("77",), "submitted")


def _time_out(launch: Launcher) -> None:
    error = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
    launch.slurm.answer("sbatch", "--parsable", "", error, 1)


def test_a_job_that_slurm_took_without_an_answer_in_time_is_adopted(
    launch: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    _time_out(launch)
    answers = iter(["", "", queue_line("78", "PENDING", script=launch.script)])
    seen = submit.list_queue

    def queue(*words: Any, **keys: Any) -> Any:
        launch.slurm.answer("squeue", "", next(answers))
        return seen(*words, **keys)

    next(answers)
    monkeypatch.setattr(submit, "list_queue", queue)
    code, out, _ = launch("--nodes", "2")
    assert (code, out.splitlines()[0]) == (0, "submitted run tiny as job 78: 2 nodes × 2 ranks")


def test_a_submission_that_timed_out_without_a_job_leaves_nothing(launch: Launcher) -> None:
    _time_out(launch)
    assert "may have taken effect, or may still do so" in launch.refuses("--nodes", "2")


def test_nodes_that_failed_lately_are_avoided_and_named(launch: Launcher) -> None:
    (launch.folder / "runs").mkdir()
    remember_excluded(launch.folder / "runs", ["n3"], reason="GPU 2 is slow", run="other")
    code, _, err = launch("--nodes", "2")
    assert code == 0
    assert err.startswith("avoiding node n3 until ")
    assert "(other: GPU 2 is slow)" in err
    assert "#SBATCH --exclude=n3\n" in (launch.run_dir / "job.sh").read_text()


def test_hosts_are_counted_and_need_no_slurm(
    launch: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = {"scheduler": "hosts", "hosts": ["a", "b", "c"], "spares": 1, "ranks_per_node": 2}
    (launch.folder / "mine.yaml").write_text(render_yaml(profile))
    monkeypatch.setenv("PATH", str(launch.folder))
    assert "lists 3 hosts; use --nodes 2" in launch.refuses("--nodes", "3")
    assert "--check asks SLURM; with scheduler: hosts" in launch.refuses("--check")
    code, out, _ = launch("--dry-run")
    assert (code, out) == (0, "2 of the hosts a, b, c × 2 ranks\n")
