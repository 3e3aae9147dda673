"""The batch script: byte-stable for the installed profiles, safe with any name, valid for bash."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config.cluster import ClusterConfig
from launcher.slurm.script import render_batch_script
from tests.launcher.slurm.golden_scripts import GOLDEN, NAMES, render_golden


def render(name: str = "tiny", run_dir: str = "/runs/tiny", **keys: Any) -> str:
    return render_batch_script(
        ClusterConfig(**keys),
        name=name,
        run_dir=Path(run_dir),
        nodes=2,
        python="/env/bin/python",
        work_dir=Path("/start"),
    )


def options(text: str) -> dict[str, str]:
    """The options of the #SBATCH lines; the empty text for an option without a value."""
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    words = [shlex.split(line.removeprefix("#SBATCH ")) for line in lines]
    assert all(len(each) == 1 for each in words)
    return {name: value for name, _, value in (each[0].partition("=") for each in words)}


def test_there_are_eight_golden_scripts() -> None:
    assert len(NAMES) == 8
    assert {file.stem for file in GOLDEN.iterdir()} == {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_script_of_a_profile_is_the_golden_one(name: str) -> None:
    golden = (GOLDEN / f"{name}.sh").read_bytes()
    # Where a change is meant: python -m tests.launcher.slurm.golden_scripts
    assert render_golden(name).encode() == golden


@pytest.mark.parametrize("name", NAMES)
def test_bash_accepts_the_script(name: str) -> None:
    file = GOLDEN / f"{name}.sh"
    assert subprocess.run(["bash", "-n", str(file)], capture_output=True).stderr == b""


@pytest.mark.parametrize("name", NAMES)
def test_every_directive_precedes_the_first_command(name: str) -> None:
    lines = (GOLDEN / f"{name}.sh").read_text().splitlines()
    commands = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    directives = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(directives) < min(commands)
    assert all(len(line) <= 100 for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_no_option_forces_an_mpi_or_hides_gpus_from_a_rank(name: str) -> None:
    text = (GOLDEN / f"{name}.sh").read_text()
    for option in ("--mpi", "--gpus-per-task", "--gpu-bind", "--ntasks-per-gpu"):
        assert option not in text


def test_spares_are_allocated_and_the_rules_of_the_job_are_there() -> None:
    found = options(render(spares=1, ranks_per_node=2, cpus_per_rank=3))
    assert found["--nodes"] == "3"
    assert (found["--ntasks-per-node"], found["--cpus-per-task"]) == ("2", "3")
    assert found["--signal"] == "B:USR2@300"
    assert {"--requeue", "--no-kill", "--exclusive"} <= {*found}
    assert (found["--open-mode"], found["--mem"]) == ("append", "0")
    assert found["--output"] == "/runs/tiny/logs/slurm-%j.out"


@pytest.mark.parametrize(
    ("restart", "option"),
    [("requeue", "--requeue"), ("chain", "--no-requeue"), ("none", "--no-requeue")],
)
def test_only_a_requeue_profile_lets_slurm_requeue_the_job(restart: str, option: str) -> None:
    found = options(render(restart=restart))
    assert {"--requeue", "--no-requeue"} & {*found} == {option}
    assert not [name for name in found if "dependency" in name]


def test_options_of_the_user_come_last_and_their_memory_is_the_only_one() -> None:
    text = render(sbatch=["--mail-type=FAIL", "#SBATCH --mem-per-cpu=4G"])
    assert list(options(text))[-2:] == ["--mail-type", "--mem-per-cpu"]
    assert "--mem" not in options(text)
    assert "SLURM_MEM_PER_CPU" not in text


def test_shared_nodes_get_no_memory_or_node_that_was_not_asked_for() -> None:
    found = options(render(exclusive=False, cpus_per_rank=2))
    assert not {"--exclusive", "--mem"} & {*found}


def test_excluded_nodes_are_those_of_the_profile_and_those_that_failed() -> None:
    text = render_batch_script(
        ClusterConfig(exclude=("n7", "n[1-2]")),
        name="tiny",
        run_dir=Path("/runs/tiny"),
        nodes=2,
        python="python3",
        work_dir=Path("/start"),
        excluded=["n3", "n7"],
    )
    assert options(text)["--exclude"] == "n7,n[1-2],n3"


def test_the_network_interface_is_given_to_nccl_and_gloo_unless_the_user_did() -> None:
    text = render(network_interface="ib0", environment={"NCCL_SOCKET_IFNAME": "ib0,ib1"})
    assert "export NCCL_SOCKET_IFNAME=ib0,ib1\nexport GLOO_SOCKET_IFNAME=ib0\n" in text
    assert "export NCCL_SOCKET_IFNAME==ib0\n" in render(network_interface="ib0")


def _run(text: str, tmp_path: Path) -> str:
    """What the script prints if the supervisor only prints its words and environment."""
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nkill -USR2 $$\nprintf "<%s>" "$@"\nenv\n')
    python.chmod(0o755)
    file = tmp_path / "job.sh"
    file.write_text(text.replace("/env/bin/python", str(python)))
    leaked = {"SLURM_CPU_BIND": "quiet", "SLURM_MEM_PER_CPU": "1", "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        ["bash", str(file)], env={**leaked, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_warning_before_the_supervisor_can_handle_it_does_not_end_the_job(tmp_path: Path) -> None:
    assert _run(render(), tmp_path).startswith("<-m><bigtrain.cli><supervise></runs/tiny>")


def test_left_over_options_of_srun_are_removed_and_the_job_id_is_kept(tmp_path: Path) -> None:
    out = _run(render(cpus_per_rank=2), tmp_path)
    assert "SLURM_CPU_BIND" not in out
    assert "SLURM_MEM_PER_CPU" not in out
    assert "SLURM_JOB_ID=7" in out
    assert "SRUN_CPUS_PER_TASK=2" in out


NASTY = 'it\'s 100% "a" $(touch x) #b `c` é;&'


def test_no_name_or_value_is_run_or_changed_by_a_shell(tmp_path: Path) -> None:
    text = render(name=NASTY, run_dir=f"/runs/{NASTY}", environment={"A": 'x "y" `touch x` #z'})
    out = _run(text, tmp_path)
    assert f"<supervise></runs/{NASTY}>" in out
    assert 'A=x "y" `touch x` #z\n' in out
    assert not (tmp_path / "x").exists()
    found = options(text)
    assert found["--job-name"] == NASTY
    assert found["--output"] == f"/runs/{NASTY}/logs".replace("%", "%%") + "/slurm-%j.out"


def test_prolog_runs_before_the_supervisor_and_expands_variables(tmp_path: Path) -> None:
    text = render(prolog=['export WHERE="/local/$SLURM_JOB_ID"'])
    assert "WHERE=/local/7\n" in _run(text, tmp_path)


def test_a_module_that_cannot_be_loaded_ends_the_job(tmp_path: Path) -> None:
    file = tmp_path / "job.sh"
    shell = "module() { echo no such module >&2; return 1; }\n"
    text = render(modules=["cuda/12"])
    file.write_text(re.sub(r"(?=^trap)", shell, text, flags=re.MULTILINE))
    done = subprocess.run(["bash", str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "no such module\n")
