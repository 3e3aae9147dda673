"""Files are found in one order everywhere, and a sample is spread over all of them."""

import pytest

from data_tools.errors import InputError
from data_tools.reading.text_files import find_sources, find_text_files, read_document, sample_text


@pytest.fixture
def folder(tmp_path):
    for name in ("b.txt", "a.txt", "deep/c.txt", "tests/d.txt", "deep/tests/e.txt", "f.py"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "root"


def names(folder, paths):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_a_folder_gives_its_texts_sorted(folder):
    found = names(folder, find_text_files([str(folder)]))
    assert found == ["a.txt", "b.txt", "deep/c.txt", "deep/tests/e.txt", "tests/d.txt"]


def test_excluded_folders_are_left_out_at_any_depth(folder):
    found = names(folder, find_text_files([str(folder)], exclude=["*/tests/*"]))
    assert found == ["a.txt", "b.txt", "deep/c.txt"]


def test_the_glob_of_a_folder_can_be_chosen(folder):
    assert names(folder, find_text_files([str(folder)], folder_glob="**/*.py")) == ["f.py"]


def test_globs_folders_and_files_join_without_repeats(folder):
    patterns = [f"{folder}/deep/**/*.txt", str(folder / "f.py"), str(folder)]
    found = names(folder, find_text_files(patterns))
    assert found[:2] == ["deep/c.txt", "deep/tests/e.txt"]
    assert sorted(found) == sorted(set(found))
    assert len(found) == 6


def test_sources_are_named_without_the_place_they_lie_in(folder):
    sources = find_sources([str(folder), f"{folder}/*.py", str(folder / "f.py")])
    assert [source.label for source in sources] == ["root/**/*.txt", "root/*.py"]


def test_finding_nothing_is_an_error_that_says_what_to_change(folder):
    with pytest.raises(InputError, match=r"--glob '\*\*/\*\.md' chooses"):
        find_text_files([str(folder)], folder_glob="**/*.md")
    with pytest.raises(InputError, match=r"absent\.txt is no file"):
        find_text_files([str(folder / "absent.txt")])


def test_documents_are_read_to_the_letter(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa\r\nb\x00 中".encode())
    assert read_document(path) == "\ufeffa\r\nb\x00 中"
    path.write_bytes(b"\xff\xfe")
    assert read_document(path) is None
    path.write_bytes(b"")
    assert read_document(path) is None


def test_a_sample_of_everything_is_everything(tmp_path):
    (tmp_path / "a.txt").write_text("中" * 100_000, encoding="utf-8")
    (tmp_path / "b.txt").write_text("b", encoding="utf-8")
    text = "".join(sample_text(sorted(tmp_path.iterdir()), max_bytes=1_000_000))
    assert set(text) == {"中", "b"}
    assert 99_990 < len(text) <= 100_001


def test_a_sample_is_spread_over_all_files_and_the_same_every_time(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02d}.txt").write_text(chr(97 + number) * 100_000)
    files = sorted(tmp_path.iterdir())
    first = list(sample_text(files, max_bytes=800_000))
    assert first == list(sample_text(files, max_bytes=800_000))
    assert 600_000 < sum(map(len, first)) < 1_000_000
    assert len(set("".join(first))) > 8
