"""The checks of one node, on real files, disks and a program in the place of nvidia-smi."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.preflight.checks import run_checks

Query = Callable[..., None]


def _problem(check: str, **arguments: Any) -> str:
    problem = run_checks(arguments)["checks"][check]["problem"]
    assert isinstance(problem, str)
    assert "\n" not in problem
    return problem


def test_a_good_node_has_no_problem_and_tells_its_figures(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("name: x\n")
    before = time.time()
    found = run_checks({"config": str(config), "folders": [{"path": str(tmp_path), "bytes": 1}]})
    assert before <= found["time"] <= time.time()
    checks = found["checks"]
    assert [check["problem"] for check in checks.values()] == [""] * 5
    assert checks["config"]["value"] == hashlib.sha256(b"name: x\n").hexdigest()
    assert {"python", "bigtrain", "torch"} <= checks["versions"]["value"].keys()
    assert checks["folders"]["value"][str(tmp_path)].endswith(" GiB")
    assert list(tmp_path.iterdir()) == [config]


def test_only_the_clock_is_asked_for() -> None:
    assert run_checks({"only_clock": True})["checks"] == {}


def test_a_folder_that_does_not_exist_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "checkpoints"
    assert _problem("folders", folders=[{"path": str(folder), "bytes": 0}]) == ""
    assert folder.is_dir()


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "runs"
    expected = f"{folder} is not writable: Not a directory"
    assert _problem("folders", folders=[{"path": str(folder), "bytes": 0}]) == expected


def test_a_disk_without_room_for_the_checkpoints_is_a_problem(tmp_path: Path) -> None:
    problem = _problem("folders", folders=[{"path": str(tmp_path), "bytes": 1 << 60}])
    assert problem.startswith(f"{tmp_path} has ")
    assert "the checkpoints that are kept need 1073741824.0 GiB" in problem


def test_a_config_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    assert _problem("config", config=str(file)) == f"{file}: No such file or directory"


def test_a_manifest_that_is_not_the_expected_one_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_bytes(b"{}")
    sha256 = hashlib.sha256(b"{}").hexdigest()
    assert _problem("data", files=[{"path": str(file), "sha256": sha256}]) == ""
    problem = _problem("data", files=[{"path": str(file), "sha256": "0" * 64}])
    assert problem == (
        f"{file} has sha256 {sha256[:12]}, but 000000000000 when the run was submitted"
    )


def test_a_tar_that_is_missing_or_has_another_size_is_a_problem(tmp_path: Path) -> None:
    tar = tmp_path / "0.tar"
    tars = [{"path": str(tar), "bytes": 4096}]
    assert _problem("data", tars=tars) == f"{tar}: No such file or directory"
    tar.write_bytes(bytes(4096))
    assert _problem("data", tars=tars) == ""
    tar.write_bytes(bytes(4000))
    assert _problem("data", tars=tars) == f"{tar} has 4000 bytes instead of 4096"


def test_a_file_system_that_hangs_is_a_problem_and_the_other_checks_answer(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # Opening it for reading waits for a writer that never comes.
    started = time.monotonic()
    found = run_checks({"config": str(pipe), "limit_seconds": 0.3})["checks"]
    assert time.monotonic() - started < 2.5
    assert found["config"]["problem"] == "no answer within 0.3 s"
    assert found["versions"]["problem"] == ""
    os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))  # Lets the thread end.


def test_an_error_of_a_check_is_a_problem(tmp_path: Path) -> None:
    assert _problem("folders", folders=[{"path": str(tmp_path)}]) == "KeyError: 'bytes'"


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Query:
    """Puts a program in the place of nvidia-smi that prints these rows."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(gpus: str, programs: str = "", *, code: int = 0) -> None:
        (tmp_path / "gpus").write_text(gpus)
        (tmp_path / "programs").write_text(programs)
        program = tmp_path / "nvidia-smi"
        program.write_text(
            f'#!/bin/sh\ncd {tmp_path}\necho "$@" >> calls\n'
            'case "$1" in *compute-apps*) cat programs;; *) cat gpus;; esac\n'
            f"exit {code}\n"
        )
        program.chmod(0o755)

    return install


TWO_GPUS = "0, GPU-a, 4, 0\n1, GPU-b, 4, [N/A]\n"


def test_gpus_that_are_present_and_idle_are_good(nvidia_smi: Query) -> None:
    nvidia_smi(TWO_GPUS)
    found = run_checks({"gpus": 2})["checks"]["gpus"]
    assert found["problem"] == ""
    assert found["value"][1] == {
        "index": "1", "uuid": "GPU-b", "memory_mib": 4, "uncorrected_errors": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gpus", "programs", "expected"),
    [
        ("0, GPU-a, 4, 0\n", "", "1 GPUs of 2; see `nvidia-smi` and `dmesg` for an Xid"),
        (TWO_GPUS, "GPU-b, 4711, a, b\n", "GPU 1 is used by process 4711 (a, b)"),
        (
            "No devices were found\n",
            "",
            "nvidia-smi printed other fields than index, uuid, memory.used, "
            "ecc.errors.uncorrected.volatile.total: ['No devices were found']",
        ),
        (
            "0, GPU-a, 9000, 0\n1, GPU-b, 4, 0\n",
            "",
            "GPU 0 has 9000 MiB in use, though no program runs",
        ),
        ("0, GPU-a, 4, 0\n1, GPU-b, 4, 3\n", "", "GPU 1 has 3 uncorrectable memory errors"),
    ],
)
def test_gpus_that_must_not_be_used_are_a_problem(
    nvidia_smi: Query, gpus: str, programs: str, expected: str
) -> None:
    nvidia_smi(gpus, programs)
    assert _problem("gpus", gpus=2) == expected


def test_an_error_of_nvidia_smi_is_a_problem(nvidia_smi: Query) -> None:
    nvidia_smi("Unable to determine the device handle for GPU 0000:1B:00.0\n", code=15)
    expected = "nvidia-smi ended with code 15: Unable to determine the device handle"
    assert _problem("gpus", gpus=2).startswith(expected)


def test_a_node_without_nvidia_smi_is_a_problem_only_if_gpus_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _problem("gpus", gpus=1) == "nvidia-smi is missing, so the GPUs cannot be checked"
    assert _problem("gpus", gpus=0) == ""


def test_only_the_gpus_of_the_job_are_checked(
    nvidia_smi: Query, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    nvidia_smi(TWO_GPUS)
    assert _problem("gpus", gpus=2) == ""
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2
    assert all(call.endswith("--id=2,3") for call in calls)
