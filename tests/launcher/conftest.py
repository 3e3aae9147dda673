"""Fixtures that make a job, or a launcher process, from the lines that each rank runs."""

import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.local import LocalLaunch
from tests.launcher.fake_ranks import PRELUDE, Launched


@pytest.fixture
def log_dir(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def write_script(tmp_path: Path) -> Callable[[str], Path]:
    def write(body: str) -> Path:
        script = tmp_path / "rank.py"
        script.write_text(PRELUDE + textwrap.dedent(body))
        return script

    return write


@pytest.fixture
def make_launch(write_script: Callable[[str], Path], log_dir: Path) -> Callable[..., LocalLaunch]:
    def make(body: str, *, processes: int = 2, grace_seconds: float = 0.3) -> LocalLaunch:
        command = (sys.executable, str(write_script(body)))
        return LocalLaunch(command, processes, log_dir, grace_seconds=grace_seconds)

    return make


@pytest.fixture
def launch(write_script: Callable[[str], Path], log_dir: Path) -> Iterator[Callable[..., Launched]]:
    launched: list[Launched] = []

    def start(body: str) -> Launched:
        launched.append(Launched(write_script(body), log_dir))
        return launched[-1]

    yield start
    for one in launched:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files of this process and its agents.

    Its path is short, since that of a socket is limited. `tmp_path` comes first, because pytest
    would else put its own folders here.
    """
    with tempfile.TemporaryDirectory(prefix="bt-", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)
