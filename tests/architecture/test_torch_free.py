"""The commands that a login node needs start quickly and import no torch."""

import json
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.architecture.source_tree import REPOSITORY, load_sources

HEAVY = ("torch", "deepspeed", "megatron", "transformers", "wandb", "safetensors")
HELP_SECONDS = 0.3
WATCH_SECONDS = 1.0


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


@pytest.fixture(scope="module")
def large_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 100,000 steps, whose metrics.jsonl has 100 MB."""
    run = tmp_path_factory.mktemp("runs") / "large"
    run.mkdir()
    shutil.copy(REPOSITORY / "tests/fixtures/written_by_0_1/gpt/config.yaml", run)
    step = (
        '{"attempt": 1, "split": "train", "step_seconds": 1.0, "x": "%s", "step": %d, "time": %d}\n'
    )
    with (run / "metrics.jsonl").open("w") as file:
        file.writelines(step % ("." * 920, each, 10**9 + each) for each in range(1, 100_001))
    start = {"event": "start", "attempt": 1, "step": 0, "time": 10**9 - 5}
    (run / "attempts.jsonl").write_text(json.dumps(start) + "\n")
    status = {"state": "running", "step": 100_000, "loss": 2.0, "time": 10**9 + 100_000}
    (run / "status.json").write_text(json.dumps(status))
    (run / "logs").mkdir()
    (run / "logs/rank-0.log").write_text("saved\n")
    return run


WATCHING = (("status",), ("status", "--json"), ("logs",), ("logs", "--rank", "0"), ("stop",))
"""Commands that watch and control a run, without the run."""


@pytest.mark.parametrize("words", WATCHING, ids=" ".join)
def test_watching_a_run_loads_nothing_heavy(words: tuple[str, ...], large_run: Path) -> None:
    command = ["bigtrain", words[0], str(large_run), *words[1:]]
    run = f"""
        import contextlib, io, sys
        from bigtrain.cli import main
        sys.argv = {command!r}
        with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
            main()
        assert output.getvalue()
    """
    assert _heavy_loaded_by(run) == ""


@pytest.mark.parametrize("words", WATCHING, ids=" ".join)
def test_watching_a_run_takes_less_than_a_second_of_cpu_time(
    words: tuple[str, ...], large_run: Path
) -> None:
    command = [words[0], str(large_run), *words[1:]]
    assert any(_cpu_seconds(command, shows=None) < WATCH_SECONDS for _ in range(3))


def test_the_status_of_a_large_run_says_that_goodput_is_an_estimate(large_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", "status", str(large_run)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert " 100.0% of 1 d 3 h allocated; estimated from " in done.stdout
    assert "metrics.jsonl (--exact reads all)" in done.stdout


def test_a_heavy_import_is_detected() -> None:
    assert _heavy_loaded_by("import safetensors") == "safetensors"


@pytest.mark.parametrize(
    "command", [["--help"], ["data", "--help"], ["checkpoint", "--help"]], ids=" ".join
)
def test_help_takes_less_than_300_ms_of_cpu_time(command: list[str]) -> None:
    # Other processes on the core can only make a try slower, so the fastest of three counts.
    assert any(_cpu_seconds(command) < HELP_SECONDS for _ in range(3))


def _cpu_seconds(command: list[str], *, shows: bytes | None = b"Usage") -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", *command],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert shows is None or shows in done.stdout
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
