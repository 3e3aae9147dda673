"""The commands that a login node needs start quickly and import no torch."""

import resource
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.architecture.source_tree import REPOSITORY, load_sources

HEAVY = ("torch", "deepspeed", "megatron", "transformers", "wandb", "safetensors")
HELP_SECONDS = 0.3


def _modules(package: str, *, except_for: Sequence[str] = ()) -> list[str]:
    modules = (source.module for source in load_sources([package]))
    return [module for module in modules if module.rpartition(".")[2] not in except_for]


def _heavy_loaded_by(statements: str) -> str:
    """The heavy packages that a new interpreter has loaded after it ran the statements."""
    report = f"\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(statements) + report],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "modules",
    [
        *map(_modules, ("data_tools", "launcher", "bigtrain/config", "bigtrain/plan")),
        _modules("bigtrain/checkpoint", except_for=("snapshot", "saver", "loading")),
        _modules("bigtrain/health"),
        _modules("bigtrain/runs"),
        _modules("bigtrain/commands"),
        ["bigtrain.cli"],
    ],
    ids=[
        "data_tools",
        "launcher",
        "config",
        "plan",
        "checkpoint",
        "health",
        "runs",
        "commands",
        "cli",
    ],
)
def test_importing_the_package_loads_nothing_heavy(modules: list[str]) -> None:
    assert modules
    assert _heavy_loaded_by(f"import {', '.join(modules)}") == ""


def test_checking_a_config_loads_nothing_heavy() -> None:
    read = "from bigtrain.config import load_run_config\nload_run_config(['configs/gpt/tiny.yaml'])"
    assert _heavy_loaded_by(read) == ""


def test_reading_plain_text_loads_nothing_heavy() -> None:
    read = """
        from data_tools.reading.documents import ReadOptions
        from data_tools.reading.read_pieces import plan_pieces, read_piece
        from data_tools.reading.text_sources import find_sources
        (source,) = find_sources(["tests/{README.md,conftest.py}"])
        pieces = plan_pieces(source, piece_bytes=1 << 20)
        assert all(list(read_piece(piece, ReadOptions())) for piece in pieces)
    """
    assert _heavy_loaded_by(read) == ""


def test_writing_and_reading_a_checkpoint_loads_nothing_heavy(tmp_path: Path) -> None:
    write = f"""
        import numpy as np
        from bigtrain.checkpoint.schema import TrainState
        from bigtrain.checkpoint.storage_folder import open_folder
        from bigtrain.checkpoint.writing import Box, finish_checkpoint, write_boxes
        parent = open_folder({str(tmp_path)!r})
        folder = parent.child("step-00000001.tmp-1")
        folder.make()
        values = np.arange(6, dtype=np.float32).reshape(2, 3)
        for rank in (0, 1):
            box = Box("weight/matrix", (2, 3), (rank, 0), values[rank : rank + 1])
            write_boxes(folder, [box], rank=rank)
        state = TrainState(1, 0, 0, 1, [], {{}}, "")
        finish_checkpoint(folder, parent=parent, world_size=2, state=state, tokenizer=b"")
    """
    read = f"""
        import numpy as np
        from bigtrain.checkpoint.commit import newest_complete
        from bigtrain.checkpoint.reading import CheckpointReader
        from bigtrain.checkpoint.storage_folder import open_folder
        folder, _ = newest_complete(open_folder({str(tmp_path)!r}))
        values = CheckpointReader(folder).read_tensor("weight", "matrix")
        assert np.array_equal(values, np.arange(6, dtype=np.float32).reshape(2, 3))
    """
    assert _heavy_loaded_by(write) == ""
    assert _heavy_loaded_by(read) == ""


def test_a_heavy_import_is_detected() -> None:
    assert _heavy_loaded_by("import safetensors") == "safetensors"


@pytest.mark.parametrize(
    "command", [["--help"], ["data", "--help"], ["checkpoint", "--help"]], ids=" ".join
)
def test_help_takes_less_than_300_ms_of_cpu_time(command: list[str]) -> None:
    # Other processes on the core can only make a try slower, so the fastest of three counts.
    assert any(_cpu_seconds(command) < HELP_SECONDS for _ in range(3))


def _cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", *command],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert b"Usage" in done.stdout
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
