"""Files are found in a fixed order, and a sample is spread over all files."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from data_tools.errors import InputError
from data_tools.reading.documents import Document, Piece, ReadOptions, Skipped
from data_tools.reading.read_pieces import read_piece
from data_tools.reading.sample_text import sample_text as sample_sources
from data_tools.reading.text_sources import find_sources


@pytest.fixture
def folder(tmp_path):
    names = ("b.txt", "a.txt", "deep/c.txt", "tests/d.txt", "deep/tests/e.txt", "f.py")
    return write_files(tmp_path / "root", names)


def write_files(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def found(*patterns, **options):
    sources = find_sources([str(pattern) for pattern in patterns], **options)
    return [file.name for source in sources for file in source.files]


def sample_text(folder, **options):
    return list(sample_sources(find_sources([str(folder)]), options=ReadOptions(), **options))


def test_a_folder_gives_its_texts_sorted(folder):
    assert found(folder) == ["a.txt", "b.txt", "deep/c.txt", "deep/tests/e.txt", "tests/d.txt"]


def test_a_folder_gives_every_known_kind_but_nothing_hidden(tmp_path):
    kinds = ["a.txt", "b.txt.gz", "c.jsonl", "d.json.zst", "e.parquet"]
    write_files(tmp_path, [*kinds, "f.py", "README.md", ".cache/g.txt", ".h.jsonl", "i.gz"])
    assert found(tmp_path) == kinds


def test_excluded_folders_are_left_out_at_any_depth(folder):
    assert found(folder, exclude=["*/tests/*"]) == ["a.txt", "b.txt", "deep/c.txt"]


def test_the_glob_of_a_folder_can_be_chosen(folder):
    assert found(folder, folder_glob="**/*.py") == ["f.py"]


def test_globs_folders_and_files_join_without_repeats(folder):
    patterns = [f"{folder}/deep/**/*.txt", str(folder / "f.py"), str(folder)]
    paths = [file.path for source in find_sources(patterns) for file in source.files]
    assert [path.rpartition("/")[2] for path in paths[:2]] == ["c.txt", "e.txt"]
    assert len(paths) == len(set(paths)) == 6


def test_names_of_sources_do_not_contain_their_folder(folder):
    sources = find_sources([str(folder), f"{folder}/*.py", str(folder / "f.py")])
    assert [source.label for source in sources] == ["root/**", "root/*.py"]
    assert find_sources([str(folder)], folder_glob="**/*.txt")[0].label == "root/**/*.txt"


@pytest.mark.parametrize("pattern", ["{}", "{}/**/*.txt", "{}/a.txt"])
def test_a_url_gives_the_same_files_as_a_path(folder, pattern):
    local = find_sources([pattern.format(folder)])[0]
    remote = find_sources(["file://" + pattern.format(folder)])[0]
    assert [file.name for file in remote.files] == [file.name for file in local.files]
    assert [file.bytes for file in remote.files] == [file.bytes for file in local.files]
    assert all(file.path.startswith("file:///") for file in remote.files)


def test_finding_no_file_is_an_error_with_a_remedy(folder):
    with pytest.raises(InputError, match=r"found .*Chosen by the glob: \*\*/\*\.md; use --glob"):
        find_sources([str(folder)], folder_glob="**/*.md")
    with pytest.raises(InputError, match=r"absent\.txt is not a file"):
        find_sources([str(folder / "absent.txt")])
    with pytest.raises(InputError, match=r"absent\.txt is not a file"):
        find_sources([f"file://{folder}/absent.txt"])
    with pytest.raises(InputError, match=r"nonsense://a cannot be opened: Protocol not known"):
        find_sources(["nonsense://a"])


def read_one(path):
    (file,) = find_sources([str(path)])[0].files
    (only,) = read_piece(Piece(file, 0, None, file.bytes), ReadOptions())
    return only


def test_text_files_are_read_exactly(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("a\r\nb\x00 中\ufeff\n".encode())
    assert read_one(path) == Document("a\r\nb\x00 中\ufeff\n", "a.txt")
    path.write_bytes("\ufeffmarked".encode())
    assert read_one(path) == Document("marked", "a.txt")
    path.write_bytes(b"\xff\xfe")
    assert read_one(path) == Skipped("not UTF-8", "a.txt")
    path.write_bytes(b"")
    assert read_one(path) == Skipped("empty", "a.txt")


def test_a_compressed_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.py.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\n"))
    assert read_one(path) == Document("one\ntwo\n", "a.py.gz")


def test_a_sample_larger_than_the_text_is_all_of_it(tmp_path):
    (tmp_path / "a.txt").write_text("中" * 100_000, encoding="utf-8")
    (tmp_path / "b.txt").write_text("b", encoding="utf-8")
    text = "".join(sample_text(tmp_path, max_bytes=1_000_000))
    assert set(text) == {"中", "b"}
    assert 99_990 < len(text) <= 100_001


def test_a_sample_is_spread_over_all_files_and_the_same_every_time(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02d}.txt").write_text(chr(97 + number) * 100_000)
    first = sample_text(tmp_path, max_bytes=800_000)
    assert first == sample_text(tmp_path, max_bytes=800_000)
    assert 600_000 < sum(map(len, first)) < 1_000_000
    assert len(set("".join(first))) > 8


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_sample_of_records_is_spread_over_the_whole_file(tmp_path, name):
    texts = [f"{number:06d} " + "x" * 1000 for number in range(2000)]
    if name == "a.parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / name)
    else:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        content = gzip.compress(lines) if name.endswith("gz") else lines
        (tmp_path / name).write_bytes(content)
    sample = sample_text(tmp_path, max_bytes=400_000)
    assert 250_000 < sum(map(len, sample)) < 500_000
    numbers = [int(text[:6]) for text in sample]
    assert min(numbers) < 500
    assert max(numbers) > 1500
    assert set(sample) <= set(texts)


@pytest.mark.parametrize("max_bytes", [1000, 10_000, 65_536, 100_000])
def test_a_small_sample_of_a_large_file_is_not_empty(tmp_path, max_bytes):
    (tmp_path / "a.txt").write_text("text " * 100_000)
    size = sum(map(len, sample_text(tmp_path, max_bytes=max_bytes)))
    assert max_bytes / 2 <= size <= max_bytes
