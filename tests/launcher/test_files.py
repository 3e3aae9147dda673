"""A small file that several threads replace at the same time is always complete."""

import os
from pathlib import Path
from threading import Event, Thread

import pytest

from launcher.files import replace_file


def test_two_writers_of_one_process_do_not_share_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, began, goes_on, sync = tmp_path / "x.json", Event(), Event(), os.fsync

    def slow_sync(descriptor: int) -> None:
        if not began.is_set():  # Only the first writer waits.
            began.set()
            assert goes_on.wait(20)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_sync)
    errors: list[OSError] = []

    def write() -> None:
        try:
            replace_file(file, "old and longer")
        except OSError as error:
            errors.append(error)

    writer = Thread(target=write)
    writer.start()
    assert began.wait(20)
    replace_file(file, "new")
    assert file.read_text() == "new"
    goes_on.set()
    writer.join()
    assert not errors and file.read_text() == "old and longer"
    assert list(tmp_path.iterdir()) == [file]
