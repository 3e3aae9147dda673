"""The batch script of an array: what it asks for, and how it tries a failed part again."""

import os
import subprocess
from pathlib import Path

import pytest

from bigtrain.config.cluster import ClusterConfig, ContainerConfig
from launcher.slurm.array_script import ArrayJob, render_array_script


def make_launch(folder: Path = Path("/corpus/tasks/cluster"), **changes: object) -> ArrayJob:
    values: dict = {
        "name": "shard",
        "title": "Sharding.",
        "job_name": "bigtrain-shard-corpus",
        "arguments": ("-m", "bigtrain.cli", "data", "shard", "--out=/corpus"),
        "operands": ("--", "stories"),
        "parts": (0, 1),
        "num_parts": 2,
        "folder": folder,
        "work_dir": Path("/home/me/my work"),
    }
    return ArrayJob(**{**values, **changes})


def render(job: ArrayJob, python: str = "/env/python", **profile: object) -> str:
    return render_array_script(job, ClusterConfig.model_validate(profile), python=python)


def command_of(script: str) -> str:
    return next(line for line in script.splitlines() if "bigtrain.cli" in line)


def test_parts_are_named_in_ranges() -> None:
    script = render(make_launch(parts=(1, 4, 5, 9), num_parts=10))
    assert "#SBATCH --array=1,4-5,9\n" in script


def test_no_gpus_and_no_whole_nodes_are_asked_for() -> None:
    script = render(make_launch(cpus=3, memory="16G"), gpus_per_node=8, memory_per_node="900G")
    assert "gpu" not in script and "gres" not in script and "exclusive" not in script
    assert "#SBATCH --cpus-per-task=3\n#SBATCH --mem=16G\n" in script
    assert "900G" not in script


def test_the_place_of_the_profile_and_its_own_options_are_taken() -> None:
    script = render(
        make_launch(),
        partition="cpu",
        account="lab",
        qos="low",
        time="2:00:00",
        exclude=["n1", "n2"],
        sbatch=["--gres=gpu:1"],
    )
    for line in ("partition=cpu", "account=lab", "qos=low", "time=2:00:00", "exclude=n1,n2"):
        assert f"#SBATCH --{line}\n" in script
    assert "#SBATCH --gres=gpu:1\n" in script


def test_the_part_is_an_option_before_the_operands() -> None:
    command = command_of(render(make_launch()))
    assert command.endswith(' --out=/corpus --task "$SLURM_ARRAY_TASK_ID/2" -- stories')
    assert "--task" not in render(make_launch(parts=None))


@pytest.mark.parametrize(
    ("runtime", "begin"),
    [
        (
            "pyxis",
            "srun --nodes=1 --ntasks=1 --cpus-per-task=1 --input=none --cpu-bind=none --mpi=none "
            "--container-image=image --container-mounts=/data:/data python3 -m bigtrain.cli",
        ),
        ("apptainer", "apptainer exec --bind /data:/data image python3 -m bigtrain.cli"),
    ],
)
def test_the_command_runs_in_the_container_without_gpus(runtime: str, begin: str) -> None:
    container = ContainerConfig(runtime=runtime, image="image", mounts=("/data:/data",))  # type: ignore[arg-type]
    script = render_array_script(
        make_launch(), ClusterConfig(gpus_per_node=8, container=container), python="/env/python"
    )
    assert command_of(script).startswith(begin)


def test_a_percent_sign_of_the_folder_is_not_a_pattern_of_sbatch() -> None:
    script = render(make_launch(Path("/50% of it/tasks/cluster")))
    assert "#SBATCH --output='/50%% of it/tasks/cluster/shard-%A_%a.log'\n" in script


def run(script: str, folder: Path, *, scontrol: str) -> subprocess.CompletedProcess[str]:
    """Runs a script as SLURM would run part 1; `scontrol` is the text of that command."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text(f"#!/bin/bash\n{scontrol}\n")
    (programs / "scontrol").chmod(0o755)
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURMD_NODENAME": "n1",
    }
    log = folder / "shard-12_1.log"
    with log.open("a") as output:
        return subprocess.run(
            ["bash", "-c", script], env=variables, stdout=output, stderr=output, timeout=20
        )  # type: ignore[return-value]


def fake_python(folder: Path, text: str) -> str:
    program = folder / "it's python"
    program.write_text(f"#!/bin/bash\n{text}\n")
    program.chmod(0o755)
    return str(program)


def test_a_failed_part_asks_to_be_requeued_and_notes_the_reason(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "echo out of memory; exit 1")
    script = render(make_launch(tmp_path, work_dir=tmp_path), python)
    scontrol = f"echo $@ > '{tmp_path}/asked'; kill $PPID; sleep 1"  # As SLURM ends the script.
    assert run(script, tmp_path, scontrol=scontrol).returncode == -15
    assert (tmp_path / "asked").read_text() == "requeue 12_1\n"
    (failure,) = (tmp_path / "shard-12_1.failures").read_text().splitlines()
    assert failure.endswith(" exit code 1 on n1: out of memory")


@pytest.mark.parametrize("profile", [{}, {"restart": "none"}])
def test_where_no_job_may_be_requeued_a_part_is_tried_three_times(
    tmp_path: Path, profile: dict
) -> None:
    python = fake_python(tmp_path, f"echo $@ >> '{tmp_path}/calls'; exit 1")
    script = render(make_launch(tmp_path, work_dir=tmp_path), python, **profile)
    assert run(script, tmp_path, scontrol="exit 1").returncode == 1
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["-m bigtrain.cli data shard --out=/corpus --task 1/2 -- stories"] * 3
    assert len((tmp_path / "shard-12_1.failures").read_text().splitlines()) == 3
    assert "failed too often; not tried again" in (tmp_path / "shard-12_1.log").read_text()


@pytest.mark.parametrize("code", [0, 2, 143])
def test_a_part_that_is_done_or_has_bad_input_or_was_cancelled_is_not_tried_again(
    tmp_path: Path, code: int
) -> None:
    python = fake_python(tmp_path, f"exit {code}")
    script = render(make_launch(tmp_path, work_dir=tmp_path), python)
    assert run(script, tmp_path, scontrol="exit 0").returncode == code
    assert not (tmp_path / "shard-12_1.failures").exists()


def test_a_missing_working_folder_or_module_is_a_failure_of_the_node(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "exit 0")
    script = render(make_launch(tmp_path, work_dir=tmp_path / "gone"), python, restart="none")
    assert run(script, tmp_path, scontrol="exit 1").returncode == 1
    assert "No such file" in (tmp_path / "shard-12_1.failures").read_text()
