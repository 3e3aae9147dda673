"""Changed, truncated and missing files of a committed checkpoint are found and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.checkpoint.commit import check_commit, newest_complete, open_state
from bigtrain.checkpoint.schema import (
    COMMIT_FILE,
    STATE_FILE,
    TENSORS_FILE,
    CheckpointError,
    read_json,
)
from bigtrain.checkpoint.storage_folder import DiskFolder
from tests.bigtrain.checkpoint.test_retention import make_checkpoint

JSON_FILES = (COMMIT_FILE, STATE_FILE, TENSORS_FILE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> DiskFolder:
    """A checkpoint of step 4, without tensors."""
    return DiskFolder(make_checkpoint(DiskFolder(tmp_path_factory.mktemp("checkpoints")), 4))


def test_each_flipped_bit_of_the_commit_is_found_or_changes_nothing(checkpoint: DiskFolder) -> None:
    file = checkpoint.path / COMMIT_FILE
    original = file.read_bytes()
    content = read_json(checkpoint, COMMIT_FILE)
    harmless = 0
    try:
        for place in range(8 * len(original)):
            damaged = bytearray(original)
            damaged[place // 8] ^= 1 << place % 8
            file.write_bytes(damaged)
            try:
                check_commit(checkpoint)
            except CheckpointError as error:
                assert len(str(error).splitlines()) == 1
            else:
                assert read_json(checkpoint, COMMIT_FILE)["files"] == content["files"]
                harmless += 1
    finally:
        file.write_bytes(original)
    # Changes of white space, and of the key crc32, which the first checkpoints did not have.
    assert harmless < 60


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_damage_to_any_json_file_is_found_and_is_one_line(
    data: st.DataObject, checkpoint: DiskFolder
) -> None:
    name = data.draw(st.sampled_from(JSON_FILES))
    file = checkpoint.path / name
    original = file.read_bytes()
    begin = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(begin, len(original)))
    damaged = original[:begin] + data.draw(st.binary(max_size=8)) + original[end:]
    commit = json.loads((checkpoint.path / COMMIT_FILE).read_bytes())
    try:
        file.write_bytes(damaged)
        state = open_state(checkpoint)
    except CheckpointError as error:
        assert damaged != original
        assert str(file.parent) in str(error)
        assert len(str(error).splitlines()) == 1
    else:
        assert name == COMMIT_FILE or damaged == original
        assert read_json(checkpoint, COMMIT_FILE)["files"] == commit["files"]
        assert state.step == 4
    finally:
        file.write_bytes(original)


def _commit(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda value: {**value, **changes}


def _with_entries(entry: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A commit file without a checksum of its own, as the first checkpoints had."""
    return lambda value: {
        "schema": value["schema"],
        "files": dict.fromkeys(value["files"], entry),
    }


def _with_file(name: str, **checksum: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A commit file that also lists a file of this name."""
    return lambda value: {
        "schema": value["schema"],
        "files": {**value["files"], name: {"bytes": 1}},
        **checksum,
    }


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (COMMIT_FILE, lambda value: [], "cannot be read as JSON"),
        (COMMIT_FILE, _commit(files=3), "lists no files"),
        (COMMIT_FILE, _commit(files={STATE_FILE: {}}), "lists no files"),
        (COMMIT_FILE, _commit(crc32=1), "fails its checksum"),
        (COMMIT_FILE, _commit(crc32=None), "fails its checksum"),
        (COMMIT_FILE, _with_file("\udabd", crc32=1), "fails its checksum"),
        (COMMIT_FILE, _with_file("\udabd", crc32=None), "fails its checksum"),
        (COMMIT_FILE, _with_file("\udabd"), "fails its checksum"),
        (COMMIT_FILE, _with_file("\0"), "is missing"),
        (COMMIT_FILE, _with_entries("?"), "lists no files"),
        (COMMIT_FILE, _with_entries({}), "lists no files"),
        (COMMIT_FILE, _with_entries({"bytes": 1}), "has .* bytes, 1 were committed"),
        (COMMIT_FILE, _commit(schema="bigtrain-checkpoint/2"), "upgrade bigtrain"),
        (COMMIT_FILE, _commit(schema=["\n"]), "upgrade bigtrain"),
        (STATE_FILE, _commit(step=5), "was changed after|bytes"),
    ],
)
def test_a_file_with_changed_content_is_named(
    name: str, change: Any, message: str, checkpoint: DiskFolder, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(checkpoint.path, tmp_path / checkpoint.name))
    file = copy / name
    file.write_text(json.dumps(change(json.loads(file.read_bytes()))))
    with pytest.raises(CheckpointError, match=message) as raised:
        open_state(DiskFolder(copy))
    assert str(copy) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"[" * 200_000, b"null", b"{}", b"\0" * 500])
@pytest.mark.parametrize("name", JSON_FILES)
def test_a_file_of_invalid_content_is_named(
    name: str, damage: bytes, checkpoint: DiskFolder, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(checkpoint.path, tmp_path / checkpoint.name))
    (copy / name).write_bytes(damage)
    for read in (lambda: open_state(DiskFolder(copy)), lambda: read_json(DiskFolder(copy), name)):
        with pytest.raises(CheckpointError, match=name) as raised:
            read()
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_folder_in_place_of_a_file_is_named(
    name: str, checkpoint: DiskFolder, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(checkpoint.path, tmp_path / checkpoint.name))
    (copy / name).unlink()
    (copy / name).mkdir()
    with pytest.raises(CheckpointError, match=name):
        open_state(DiskFolder(copy))


def test_other_names_are_not_checkpoints(tmp_path: Path) -> None:
    checkpoints = DiskFolder(tmp_path)
    make_checkpoint(checkpoints, 4)
    (tmp_path / "latest").symlink_to(tmp_path / "step-00000099")
    (tmp_path / "step-00000009").symlink_to(tmp_path / "nowhere")
    (tmp_path / "step-00000008").write_text("a file")
    (tmp_path / "step-00000007").mkdir()
    for name in ("step-5", "step-00000006.bad-1", "step-00000006.tmp-2", "notes.txt"):
        (tmp_path / name).mkdir()
    newest, skipped = newest_complete(checkpoints)
    assert newest is not None
    assert newest.name == "step-00000004"
    assert [line.split(":")[0] for line in skipped] == [
        f"skipped step-0000000{step}" for step in (9, 8, 7)
    ]


@given(content=st.binary(max_size=200))
@settings(deadline=None)
def test_any_invalid_content_raises_checkpoint_error(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("invalid")
    (folder / STATE_FILE).write_bytes(content)
    with pytest.raises(CheckpointError):
        read_json(DiskFolder(folder), STATE_FILE)
