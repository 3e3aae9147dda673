"""Fixtures of the tests of the SLURM commands."""

from pathlib import Path

import pytest

from tests.launcher.slurm.fake_slurm import FakeSlurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Commands of an idle cluster of four nodes, first in PATH."""
    fake = FakeSlurm(tmp_path / "slurm-commands")
    fake.install()
    monkeypatch.setenv("PATH", fake.path())
    return fake
