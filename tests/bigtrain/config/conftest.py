"""A fixture: a working folder with one small config."""

from pathlib import Path

import pytest

from tests.bigtrain.config.small_run import ConfigFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConfigFolder:
    monkeypatch.chdir(tmp_path)
    return ConfigFolder(tmp_path)
