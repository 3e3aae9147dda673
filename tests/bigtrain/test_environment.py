"""Reading the rank variables, and keeping a broken wandb out of megatron-core."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bigtrain.commands.error_report import write_error_report
from bigtrain.environment import (
    RankVariableError,
    read_ranks,
    read_supervision,
    record_nccl_calls,
)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", "x", "RANK='x' in the environment is not a whole number"),
        ("LOCAL_RANK", "", "LOCAL_RANK='' in the environment is not a whole number"),
        ("WORLD_SIZE", "-1", "WORLD_SIZE='-1' in the environment is not a whole number"),
        ("RANK", "1", "RANK=1 is not below WORLD_SIZE=1"),
    ],
)
def test_an_impossible_rank_is_refused_with_its_variable(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(RankVariableError) as error:
        read_ranks()
    assert str(error.value).startswith(message)
    monkeypatch.setenv("BIGTRAIN_ERROR_FILE", str(tmp_path / "error.json"))
    assert write_error_report(message, 2) == tmp_path / "error.json"


def test_an_error_file_tells_the_launcher_how_to_get_past_a_divergence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "rank-0.error.json"
    monkeypatch.setenv("BIGTRAIN_ERROR_FILE", str(file))
    write_error_report("an error", 1)
    assert "divergence" not in json.loads(file.read_text())
    steps = {"first_skipped": 120, "last_skipped": 129, "checkpoint_step": 100}
    write_error_report("the loss diverged", 1, divergence=steps)
    assert json.loads(file.read_text())["divergence"] == steps


def test_a_rank_without_a_launcher_is_not_watched_and_its_node_is_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("BIGTRAIN_HEARTBEAT_SOCKET", "BIGTRAIN_STACKS_FILE", "BIGTRAIN_NODE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    alone = read_supervision()
    assert (alone.heartbeat_socket, alone.stacks_file) == (None, None)
    assert alone.node == socket.gethostname()
    for name, value in zip(names, ("/tmp/a/beats", "/runs/x/stacks-1.txt", "n7"), strict=True):
        monkeypatch.setenv(name, value)
    watched = read_supervision()
    assert watched.heartbeat_socket == Path("/tmp/a/beats")
    assert watched.stacks_file == Path("/runs/x/stacks-1.txt")
    assert watched.node == "n7"


def test_nccl_s_flight_recorder_writes_beside_the_stacks_and_keeps_the_user_s_variables() -> None:
    unwatched: dict[str, str] = {}
    record_nccl_calls(unwatched)
    assert unwatched == {}
    watched = {
        "BIGTRAIN_STACKS_FILE": "/runs/x/logs/stacks-1.txt",
        "BIGTRAIN_HEARTBEAT_SOCKET": "/tmp/a/beats",
        "TORCH_NCCL_TRACE_BUFFER_SIZE": "500",
    }
    record_nccl_calls(watched)
    assert watched["TORCH_NCCL_TRACE_BUFFER_SIZE"] == "500"
    assert watched["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"
    assert watched["TORCH_NCCL_DEBUG_INFO_TEMP_FILE"] == "/runs/x/logs/nccl-rank-"
    # A pipe cannot be made on every shared file system, but where a socket is, it can.
    assert watched["TORCH_NCCL_DEBUG_INFO_PIPE_FILE"] == "/tmp/a/nccl-"


def test_megatron_does_not_import_a_broken_wandb(tmp_path: Path) -> None:
    (tmp_path / "wandb.py").write_text("raise TypeError('Descriptors cannot be created directly')")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from bigtrain.environment import quiet_foreign_libraries as quiet; quiet()\n"
            "import megatron.core.inference.contexts.dynamic_context",
        ],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
