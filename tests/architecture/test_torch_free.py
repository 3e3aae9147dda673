"""What a login node needs answers without torch, and at once."""

import resource
import subprocess
import sys
import textwrap

import pytest

from tests.architecture.source_tree import REPOSITORY, load_sources

HEAVY = ("torch", "deepspeed", "megatron", "transformers", "wandb", "safetensors")
HELP_SECONDS = 0.3


def _modules(package: str) -> list[str]:
    return [source.module for source in load_sources([package])]


def _heavy_loaded_by(statements: str) -> str:
    """Which heavy packages are loaded when a fresh interpreter has run the statements."""
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
        ["bigtrain.cli"],
        _modules("bigtrain/checkpoint/commands"),
    ],
    ids=["data_tools", "launcher", "config", "plan", "cli", "checkpoint"],
)
def test_importing_it_loads_nothing_heavy(modules: list[str]) -> None:
    assert modules
    assert _heavy_loaded_by(f"import {', '.join(modules)}") == ""


def test_checking_a_config_loads_nothing_heavy() -> None:
    read = "from bigtrain.config import load_run_config\nload_run_config(['configs/gpt/tiny.yaml'])"
    assert _heavy_loaded_by(read) == ""


def test_reading_text_that_is_no_webdataset_tar_loads_nothing_heavy() -> None:
    read = """
        from data_tools.reading.documents import ReadOptions
        from data_tools.reading.read_pieces import plan_pieces, read_piece
        from data_tools.reading.text_sources import find_sources
        (source,) = find_sources(["tests/{README.md,conftest.py}"])
        pieces = plan_pieces(source, piece_bytes=1 << 20)
        assert all(list(read_piece(piece, ReadOptions())) for piece in pieces)
    """
    assert _heavy_loaded_by(read) == ""


def test_a_heavy_import_would_be_seen() -> None:
    assert _heavy_loaded_by("import safetensors") == "safetensors"


@pytest.mark.parametrize(
    "command", [["--help"], ["data", "--help"], ["checkpoint", "--help"]], ids=" ".join
)
def test_help_answers_at_once(command: list[str]) -> None:
    # Another process on the core makes the clock of one try worse, never better.
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
