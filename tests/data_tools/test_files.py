"""Atomic file writes, file locks, and progress bars."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools import progress
from data_tools.files import part_path, remove_parts, write_file
from data_tools.locks import try_lock, try_lock_byte, wait_for_lock


def test_a_written_file_is_synced_before_its_name_and_the_folder_after(tmp_path, monkeypatch):
    events = []
    sync, rename = os.fsync, Path.replace

    def note_sync(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    def note_rename(path, target):
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    path = tmp_path / "new folder" / "file"
    write_file(path, b"content")
    assert path.read_bytes() == b"content"
    assert events == [part_path(path), "rename", path.parent]


def test_a_write_that_fails_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_file(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"No space left on device.*{path}"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208 - lists hidden files too


def test_a_folder_in_place_of_a_file_is_an_error_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=str(path)):
        write_file(path, b"new")
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208 - lists hidden files too


def test_temporary_files_of_killed_processes_are_removed_by_name(tmp_path):
    left = [tmp_path / f".{name}.123.part" for name in ("a.json", "a[1].json", "b.json")]
    for path in [*left, tmp_path / "a.json"]:
        path.touch()
    remove_parts(tmp_path, prefix="a[1]")
    assert [path.exists() for path in left] == [True, False, True]
    remove_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def try_lock_in_process(path: Path, call: str) -> str:
    """Tries to lock a file in another process; returns the result."""
    code = (
        "import sys\nfrom data_tools.locks import try_lock, try_lock_byte\n"
        f"with open(sys.argv[1], 'a+') as file: print({call})"
    )
    words = [sys.executable, "-c", code, str(path)]
    root = Path(__file__).parents[2]
    return subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout


def test_a_lock_excludes_other_processes_until_its_file_is_closed(tmp_path):
    path = tmp_path / "lock"
    with path.open("a+") as file:
        assert try_lock(file, shared=True)
        assert try_lock_in_process(path, "try_lock(file, shared=True)") == "True\n"
        assert try_lock_in_process(path, "try_lock(file)") == "False\n"
        wait_for_lock(file)
        assert try_lock_in_process(path, "try_lock(file, shared=True)") == "False\n"
    assert try_lock_in_process(path, "try_lock(file)") == "True\n"


def test_single_bytes_of_a_file_are_locked_independently(tmp_path):
    path = tmp_path / "lock"
    with path.open("a+") as file:
        assert try_lock_byte(file, 3)
        assert try_lock_in_process(path, "try_lock_byte(file, 3), try_lock_byte(file, 4)") == (
            "False True\n"
        )


@pytest.mark.parametrize("transient", [False, True])
def test_progress_in_a_log_ends_with_a_line_unless_it_is_transient(transient):
    lines = []
    with progress.show_progress("x", 200, write_line=lines.append, transient=transient) as advance:
        advance(100)
        advance(100)
    assert [line.startswith("x: 100%, ") for line in lines] == [True] * (not transient)


def test_progress_in_a_log_is_a_line_every_few_seconds(monkeypatch):
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    lines = []
    with progress.show_progress("x", 200, write_line=lines.append) as advance:
        advance(50)
        advance(50)
    assert [line.partition(",")[0] for line in lines] == ["x: 25%", "x: 50%"]
