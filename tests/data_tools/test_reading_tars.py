"""Every member of a tar is read as a document or counted as skipped."""

import io
import os
import subprocess
import tarfile

import pytest

from data_tools.errors import InputError
from data_tools.reading.documents import Document, Skipped
from tests.data_tools.test_reading_bad_input import reasons_and_peak
from tests.data_tools.test_reading_records import read


def write_members(path, *members):
    """Writes a tar of (name, content) members."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_links_in_a_tar_are_counted_with_their_targets(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("text")
    os.link(tmp_path / "in/a.txt", tmp_path / "in/b.txt")
    (tmp_path / "in/c.txt").symlink_to("a.txt")
    os.mkfifo(tmp_path / "in/d.txt")
    names = ["a.txt", "b.txt", "c.txt", "d.txt"]
    subprocess.run(["tar", "cf", "../a.tar", *names], cwd=tmp_path / "in", check=True)
    assert read(tmp_path / "a.tar")[0] == [
        Skipped("hard link in a tar", "a.tar b.txt → a.txt"),
        Skipped("symbolic link in a tar", "a.tar c.txt → a.txt"),
        Skipped("not a regular file in a tar", "a.tar d.txt"),
        Document("text", "a.tar a.txt"),
    ]


def test_members_whose_names_start_with_two_underscores_are_read(tmp_path):
    members = [(name, b"text") for name in ("__x__/a.txt", "__b__.txt", "c.__d.txt")]
    found, _ = read(write_members(tmp_path / "a.tar", *members))
    assert [it.place for it in found] == [f"a.tar {name}" for name, _ in members]


def test_a_second_member_of_the_same_name_is_handled_by_on_invalid(tmp_path):
    members = [("0.txt", b"old"), ("1.txt", b"one"), ("1.TXT", b"new"), ("2.txt", b"two")]
    path = write_members(tmp_path / "a.tar", *members)
    with pytest.raises(InputError, match=r"a\.tar has several members 1\.TXT.*--on-invalid skip"):
        read(path)
    found, _ = read(path, on_invalid="skip")
    assert [it.text for it in found if isinstance(it, Document)] == ["old", "one", "two"]
    assert [it.reason for it in found if isinstance(it, Skipped)] == [
        "second member of one name in a tar"
    ]


def test_a_member_too_long_for_one_document_is_never_held_in_memory(tmp_path):
    path = tmp_path / "a.tar"
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for name, size in (("0.txt", 1), ("1.txt", 1 << 28), ("2.json", 1 << 28), ("3.txt", 1)):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member)
            file.seek(-(-size // 512) * 512, os.SEEK_CUR)
            tar.offset = file.tell()
    found, peak = reasons_and_peak(path)
    assert "".join(found) == "documenttoolongtoolongdocument"
    assert peak < 400 << 20
    with pytest.raises(InputError, match=r"a\.tar 1\.txt is longer than 1 MiB: raise --max-doc"):
        read(path, max_document_bytes=1 << 20)
    assert len(read(path, max_document_bytes=1 << 20, on_invalid="skip")[0]) == 4
