"""Text is found in folders and behind links; files that are not read are counted and named."""

import gzip
import json
import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pytest
from webdataset.writer import TarWriter

from data_tools.errors import InputError
from data_tools.files import render_json
from data_tools.reading.left_out_files import LeftOut
from data_tools.reading.text_sources import find_sources
from data_tools.reading.walk_folders import FOLDER_OF_A_GLOB, TOO_MANY_NAMES

_NOBODY = 65534


def write(path, content="text\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def find(*patterns, **options):
    """The names of files to read, and the number of skipped files by reason."""
    left_out = LeftOut()
    sources = find_sources([str(it) for it in patterns], left_out=left_out, **options)
    names = [file.name for source in sources for file in source.files]
    return names, {reason: row["files"] for reason, row in left_out.record().items()}


@pytest.mark.parametrize("place", ["{}", "file://{}"])
def test_folders_and_files_behind_links_are_read(tmp_path, place):
    write(tmp_path / "data/web/deep/w.txt")
    write(tmp_path / "data/one.txt")
    write(tmp_path / "texts/own.txt")
    (tmp_path / "texts/web").symlink_to("../data/web")
    (tmp_path / "texts/one.txt").symlink_to("../data/one.txt")
    names, left_out = find(place.format(tmp_path / "texts"))
    assert names == ["one.txt", "own.txt", "web/deep/w.txt"]
    assert not left_out


@pytest.mark.parametrize("options", [{}, {"folder_glob": "**/*.txt"}, {"folder_glob": "*.txt"}])
def test_circular_links_are_named_and_followed_once(tmp_path, options, caplog):
    write(tmp_path / "a/x.txt")
    write(tmp_path / "b/y.txt")
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / "a/to-b").symlink_to("../b")
    (tmp_path / "b/to-a").symlink_to("../a")
    (tmp_path / "self").symlink_to("self")
    names, left_out = find(tmp_path, **options)
    assert names == ["a/x.txt", "b/y.txt"]
    assert left_out["behind a link in a circle"] >= 1
    assert left_out["behind a link that cannot be followed"] == 1
    assert "a/up → .." in caplog.text


@pytest.mark.parametrize(
    ("pattern", "options", "is_told"),
    [
        ("{}", {"folder_glob": "*.txt"}, False),
        ("{}", {"folder_glob": "**/*.txt"}, False),
        ("{}/**/*.txt", {}, False),
        ("{}", {"folder_glob": "**/0/**/*.txt"}, True),
        ("{}", {"exclude": ["*/none/*"]}, True),
    ],
)
def test_folders_that_link_to_each_other_are_entered_a_bounded_number_of_times(
    tmp_path, pattern, options, is_told
):
    numbers = range(6)  # Without a bound, 6 folders take seconds and 9 take hours.
    for number in numbers:
        write(tmp_path / f"{number}/{number}.txt")
        for other in set(numbers) - {number}:
            (tmp_path / f"{number}/{other}").symlink_to(f"../{other}")
    names, left_out = find(pattern.format(tmp_path), **options)
    assert sorted(Path(name).name for name in names) == [f"{number}.txt" for number in numbers]
    assert (TOO_MANY_NAMES in left_out) == is_told


def test_a_file_with_several_links_is_read_once_under_its_own_name(tmp_path):
    write(tmp_path / "z/x.txt")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "b.txt").symlink_to("z/x.txt")
    names, left_out = find(tmp_path)
    assert names == ["z/x.txt"]
    assert left_out == {
        "read already by another name": 2,
    }
    assert find(tmp_path / "z", tmp_path / "a") == (["x.txt"], {"named twice": 1})


def test_a_link_is_read_if_the_name_of_its_target_is_not_accepted(tmp_path):
    write(tmp_path / "blobs/0a1b2c", '{"text": "x"}')  # The layout of the Hugging Face hub's cache.
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots/train.jsonl").symlink_to("../blobs/0a1b2c")
    assert find(tmp_path) == (["snapshots/train.jsonl"], {"without an ending": 1})
    write(tmp_path / "raw/a.txt")
    (tmp_path / "cooked").symlink_to("raw")
    names, _ = find(tmp_path, exclude=["*/raw/*"])
    assert names == ["cooked/a.txt", "snapshots/train.jsonl"]
    assert find(f"file://{tmp_path}", folder_glob="cooked/*")[0] == ["cooked/a.txt"]


def test_dangling_links_and_special_files_are_named(tmp_path, monkeypatch, caplog):
    write(tmp_path / "a.txt")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # Socket paths must be short.
        listener.bind("socket.txt")
        names, left_out = find(tmp_path)
    assert names == ["a.txt"]
    assert left_out == {"behind a broken link": 1, "not a regular file": 2}
    assert "gone.txt → nowhere" in caplog.text
    with pytest.raises(InputError, match=r"gone\.txt is a broken link to nowhere"):
        find(tmp_path / "gone.txt")
    with pytest.raises(InputError, match=r"pipe\.txt is a pipe, .* standard input"):
        find(tmp_path / "pipe.txt")


@contextmanager
def not_as_root():
    """Runs a block as another user if the process runs as root, which may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_files_without_read_permission_are_named():
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are private.
        root = Path(name)
        root.chmod(0o755)
        write(root / "a.txt")
        write(root / "closed.txt").chmod(0)
        write(root / "folder/b.txt").parent.chmod(0)
        with not_as_root():
            found = find(root)
            with pytest.raises(InputError, match=r"you may not read .*closed\.txt"):
                find(root / "closed.txt")
        (root / "folder").chmod(0o700)
    assert found == (["a.txt"], {"unreadable": 2})


def test_skipped_files_are_counted_by_ending_with_an_example_and_a_remedy(tmp_path, caplog):
    for name in ("A.TXT", "B.JSONL", "c.TXT.GZ", "p/a.pdf", "p/b.pdf", "x.jsonl.lz4", "Makefile"):
        write(tmp_path / name, gzip.compress(b"x") if name.endswith("GZ") else "{}")
    write(tmp_path / ".git/config.txt")
    write(tmp_path / "e.jsonl", "")
    names, left_out = find(tmp_path)
    assert names == ["A.TXT", "B.JSONL", "c.TXT.GZ", "e.jsonl"]
    assert left_out == {
        ".pdf": 2,
        ".jsonl.lz4": 1,
        "without an ending": 1,
        "hidden": 1,
        "empty": 1,
    }
    assert "2 .pdf (e.g. p/a.pdf; take its text out into .txt)" in caplog.text
    assert "1 .jsonl.lz4 (x.jsonl.lz4; unpack it with lz4 -d)" in caplog.text
    assert len(caplog.records) == 1


def test_archives_that_a_glob_matches_are_counted_by_kind(tmp_path, caplog):
    write(tmp_path / "a.md")
    write(tmp_path / "b.data", b"Rar!\x1a\x07\x00")
    assert find(tmp_path, folder_glob="*") == (["a.md"], {"rar archive": 1})
    assert "left out: 1 rar archive (b.data)" in caplog.text


def test_a_glob_without_folders_matches_in_all_folders(tmp_path):
    for name in ("a.md", "docs/b.md", "docs/deep/c.md", "docs/d.MD", "e.txt"):
        write(tmp_path / name)
    names, left_out = find(tmp_path, folder_glob="*.md")
    assert names == ["a.md", "docs/b.md", "docs/deep/c.md"]
    assert left_out == {"not chosen by the glob": 2}
    assert find(tmp_path, folder_glob="./*.md")[0] == ["a.md"]
    assert find(tmp_path, folder_glob="docs/*.md")[0] == ["docs/b.md"]
    assert find(f"file://{tmp_path}", folder_glob="*.md")[0] == names
    assert find(f"{tmp_path}/*.md")[0] == ["a.md"]
    assert find(f"{tmp_path}/**")[0] == [
        "a.md",
        "docs/b.md",
        "docs/d.MD",
        "docs/deep/c.md",
        "e.txt",
    ]
    for pattern in ("a**b", "/x/*.md", "../*.md", ""):
        with pytest.raises(InputError, match="the glob"):
            find(tmp_path, folder_glob=pattern)


def test_a_folder_that_a_glob_matches_is_named(tmp_path):
    write(tmp_path / "a.txt")
    write(tmp_path / "web/b.txt")
    names, left_out = find(f"{tmp_path}/*")
    assert names == ["a.txt"]
    assert left_out == {FOLDER_OF_A_GLOB: 1}


def test_excluded_files_are_counted_even_if_they_would_not_be_read(tmp_path):
    for name in ("a.txt", "tests/b.txt", "tests/c.pdf"):
        write(tmp_path / name)
    assert find(tmp_path, exclude=["*/tests/*"]) == (["a.txt"], {"excluded": 2})


def test_braces_and_double_colons_name_many_files(tmp_path):
    for name in ("s-008.txt", "s-009.txt", "s-010.txt", "{x}.txt"):
        write(tmp_path / name)
    for name in ("a.tar", "b.tar"):
        with TarWriter(str(tmp_path / name)) as tar:
            tar.write({"__key__": "0", "txt": "text"})
    assert find(f"{tmp_path}/s-{{008..010}}.txt")[0] == ["s-008.txt", "s-009.txt", "s-010.txt"]
    assert find(f"file://{tmp_path}/s-0{{08,10}}.txt")[0] == ["s-008.txt", "s-010.txt"]
    assert find(f"{tmp_path}/a.tar::{tmp_path}/b.tar")[0] == ["a.tar", "b.tar"]
    assert find(tmp_path / "{x}.txt")[0] == ["{x}.txt"]
    with pytest.raises(InputError, match=r"s-011\.txt is not a file"):
        find(f"{tmp_path}/s-{{008..011}}.txt")
    with pytest.raises(InputError, match=r"\{.*write it as shards-\{000\.\.099\}\.tar"):
        find(f"{tmp_path}/s-{{008..011.txt")


def test_metadata_and_caches_of_hugging_face_datasets_are_skipped(tmp_path):
    table = pyarrow.table({"text": ["a", "b"]})
    for name in ("data-00000-of-00001.arrow", "cache-1f2e3d.arrow"):
        (tmp_path / "train").mkdir(exist_ok=True)
        with pyarrow.ipc.new_stream(tmp_path / "train" / name, table.schema) as writer:
            writer.write_table(table)
    for name in ("train/dataset_info.json", "train/state.json"):
        write(tmp_path / name, json.dumps({"_data_files": []}, indent=2))
    write(tmp_path / "dataset_dict.json", '{"splits": ["train"]}')
    names, left_out = find(tmp_path)
    assert names == ["train/data-00000-of-00001.arrow"]
    assert left_out == {"kept by Hugging Face datasets": 4}


def test_files_of_a_user_with_the_names_of_metadata_are_read(tmp_path):
    line = '{"text": "a manifest of mine"}\n'
    names = ["000001.json", "manifest.json", "report.json", "state.json", "tasks/job.json"]
    for name in names:
        write(tmp_path / name, line)
    assert find(tmp_path) == (names, {})


def test_file_names_with_invalid_utf8_or_line_ends_are_read_and_escaped(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in (b"\xff.txt", b"\xff.pdf", b"a\nb.pdf", b"v1.2 of my notes", b"log.1"):
        with open(os.fsencode(tmp_path / "sub") + b"/" + name, "wb") as file:  # noqa: PTH123
            file.write(b"text")
    left_out = LeftOut()
    ((file,),) = (source.files for source in find_sources([str(tmp_path)], left_out=left_out))
    assert file.name == "sub/\udcff.txt"
    assert [line for line in left_out.lines() if not line.isprintable()] == []
    assert {reason: row["files"] for reason, row in left_out.record().items()} == {
        ".pdf": 2,
        "without an ending": 2,
    }
    render_json(left_out.record())
