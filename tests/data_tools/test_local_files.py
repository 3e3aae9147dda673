"""A bounded number of a corpus's tars is open: those read last; sizes are checked."""

from pathlib import Path

import pytest

from data_tools.errors import InputError
from data_tools.local_files import LocalFiles

SIZES = dict.fromkeys("abcd", 100)


@pytest.fixture
def files(tmp_path) -> LocalFiles:
    for name, size in SIZES.items():
        (tmp_path / name).write_bytes(name.encode() * size)
    return LocalFiles(tmp_path, SIZES, limit=2)


def read(files: LocalFiles, name: str) -> bytes:
    content = bytearray(10)
    files.read_into(name, 20, memoryview(content))
    return bytes(content)


def open_names(folder: Path) -> list[str]:
    """The files of a folder that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            path = descriptor.readlink()
        except FileNotFoundError:  # The descriptor of the listing itself.
            continue
        if path.parent == folder:
            found.append(path.name)
    return sorted(found)


@pytest.mark.parametrize(
    ("order", "left"), [("abc", "bc"), ("abcd", "cd"), ("abac", "ac"), ("abcda", "ad")]
)
def test_the_files_read_last_stay_open_and_no_others(files, tmp_path, order, left):
    for name in order:
        assert read(files, name) == name.encode() * 10
    assert open_names(tmp_path) == [*left]


def test_files_announced_as_needed_soon_count_as_read(files, tmp_path):
    for name in SIZES:
        files.will_need(name, 0, 100)
    assert open_names(tmp_path) == ["c", "d"]


def test_a_closed_file_is_opened_again(files):
    assert [read(files, name) for name in "abcda"] == [c.encode() * 10 for c in "abcda"]


def test_closing_leaves_no_file_open(files, tmp_path):
    read(files, "a")
    assert open_names(tmp_path) == ["a"]
    files.close()
    assert open_names(tmp_path) == []


@pytest.mark.parametrize("size", [50, 101])
def test_a_file_of_another_size_is_refused_when_it_is_opened(files, tmp_path, size):
    (tmp_path / "a").write_bytes(b"a" * size)
    with pytest.raises(InputError, match=rf"a has {size} bytes, not the manifest's 100: restore"):
        read(files, "a")
