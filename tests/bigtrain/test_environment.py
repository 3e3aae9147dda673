"""Reading the rank variables, and keeping a broken wandb out of megatron-core."""

import subprocess
import sys
from pathlib import Path

import pytest

from bigtrain.commands.error_report import write_error_report
from bigtrain.environment import RankVariableError, read_ranks


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
