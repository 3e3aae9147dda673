"""Which errors are bad input, with exit code 2, and which may pass or be of one node, with 1."""

import errno
import os
from pathlib import Path

import pytest

from bigtrain.checkpoint.find_checkpoint import find_checkpoint
from bigtrain.checkpoint.schema import CheckpointError, StorageError, unreadable
from bigtrain.commands.error_report import explain
from bigtrain.config import ConfigError
from bigtrain.config.config_files import load_resolved_config
from data_tools.remote_files import RemoteFolder


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/runs/a")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EROFS])
def test_a_path_that_cannot_be_used_is_bad_input(number: int) -> None:
    assert explain(_error(number)) == (f"/runs/a: {os.strerror(number)}", 2, True)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOSPC, errno.ETIMEDOUT])
def test_a_file_system_that_fails_is_no_bad_input(number: int) -> None:
    assert explain(_error(number)) == (f"/runs/a: {os.strerror(number)}", 1, True)


def test_storage_that_fails_to_read_a_checkpoint_is_no_bad_input() -> None:
    assert explain(unreadable("/runs/a", _error(errno.EIO)))[1] == 1
    assert explain(unreadable("/runs/a", _error(errno.EACCES)))[1] == 2
    assert explain(CheckpointError("damaged"))[1] == 2


def _fail(monkeypatch: pytest.MonkeyPatch, method: str, number: int) -> None:
    def fail(*_: object, **__: object) -> None:
        raise _error(number)

    monkeypatch.setattr(Path, method, fail)


def test_a_config_on_a_file_system_that_fails_is_no_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail(monkeypatch, "read_text", errno.ESTALE)
    with pytest.raises(OSError, match="Stale file handle") as raised:
        load_resolved_config(tmp_path / "config-job.yaml")
    assert explain(raised.value)[1] == 1
    _fail(monkeypatch, "read_text", errno.EACCES)
    with pytest.raises(ConfigError, match="Permission denied"):
        load_resolved_config(tmp_path / "config-job.yaml")


def test_a_checkpoint_that_is_looked_for_on_a_file_system_that_fails_is_no_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise _error(errno.EIO)

    monkeypatch.setattr("bigtrain.checkpoint.find_checkpoint._find_in", fail)
    with pytest.raises(StorageError) as raised:
        find_checkpoint(tmp_path)
    assert explain(raised.value)[1] == 1


def test_a_full_cache_of_one_node_is_no_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RemoteFolder.__new__(RemoteFolder)
    files._cache = type("Cache", (), {"folder": tmp_path})()
    _fail(monkeypatch, "write_bytes", errno.ENOSPC)
    with pytest.raises(OSError, match=r"lower data\.cache_gb") as raised:
        files._keep(tmp_path / "a.chunk", b"x")
    assert explain(raised.value)[1] == 1
