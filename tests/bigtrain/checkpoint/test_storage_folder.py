"""Folders on a disk, behind a URL and in an object store behave the same."""

import pickle
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigtrain.checkpoint import object_store
from bigtrain.checkpoint.find_checkpoint import find_checkpoint
from bigtrain.checkpoint.object_store import ReadAhead
from bigtrain.checkpoint.schema import COMMIT_FILE, CheckpointError
from bigtrain.checkpoint.step_folders import named_folders
from bigtrain.checkpoint.storage_folder import (
    DiskFolder,
    Folder,
    FolderError,
    UrlFolder,
    open_folder,
)
from tests.stores import BUCKET, s3_client, s3_server, use_environment

KINDS = ("disk", "file", "memory", "s3")


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    """Starts an S3 server, or skips the test."""
    with s3_server() as environment, use_environment(environment):
        yield


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder of each kind, which does not exist yet."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    places = {
        "disk": str(tmp_path / "runs"),
        "file": f"file://{tmp_path}/runs",
        "memory": f"memory://{uuid.uuid4().hex}/runs",
        "s3": f"s3://{BUCKET}/{uuid.uuid4().hex}",
    }
    return open_folder(places[request.param]).child("tiny")


def test_a_missing_folder_is_empty_and_can_be_removed(folder: Folder) -> None:
    assert folder.names() == []
    assert folder.size("file") is None
    assert folder.modified("file") is None
    folder.remove_file("file")
    folder.remove()
    for read in (folder.read, folder.opened):
        with pytest.raises(FileNotFoundError):
            read("file")
    assert folder.names() == []
    folder.check_place()


def test_files_are_written_read_and_replaced(folder: Folder) -> None:
    folder.make()
    folder.make()
    folder.write("b", b"first and long")
    folder.write("a", b"")
    folder.child("under").make()
    folder.child("under").write("file", b"deep")
    folder.write("b", b"second")
    folder.settle()
    assert folder.names() == ["a", "b", "under"]
    assert [folder.size(name) for name in ("a", "b", "under")] == [0, 6, None]
    assert folder.read("b") == b"second"
    assert folder.child("under").read("file") == b"deep"
    assert folder.child("b").names() == []  # A file is not a folder.
    assert folder.modified("b") is not None or str(folder).startswith("memory")
    again = open_folder(str(folder))
    assert (str(again), again.name, again.names()) == (str(folder), "tiny", folder.names())


def test_a_folder_can_be_pickled(folder: Folder) -> None:
    folder.make()
    folder.write("file", b"content")
    assert pickle.loads(pickle.dumps(folder)).read("file") == b"content"


def test_removing_a_folder_removes_its_content_and_no_other_folder(folder: Folder) -> None:
    for name in ("step-1", "step-10", "step-1.try-1"):
        folder.child(name).make()
        folder.child(name).write("file", b"content")
        folder.child(name).child("under").make()
        folder.child(name).child("under").write("file", b"content")
    folder.child("step-1").remove()
    folder.child("step-10").remove_file("file")
    assert folder.names() == ["step-1.try-1", "step-10"]
    assert folder.child("step-10").names() == ["under"]
    assert folder.child("step-1").names() == []


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(reads=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 200)), max_size=12))
def test_any_range_of_a_file_is_read_as_written(
    reads: list[tuple[int, int]], folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_small_read_ahead(monkeypatch)
    content = bytes(number * 7 % 251 for number in range(600))
    if folder.size("file") is None:
        folder.make()
        folder.write("file", content)
    with folder.opened("file") as file:
        for start, count in reads:
            buffer = bytearray(count)
            found = file.read_into(start, memoryview(buffer))
            assert buffer[:found] == content[start : start + count]
            assert found == len(content[start : start + count])


def _set_small_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("REQUEST_BYTES", 64), ("_FIRST_AHEAD", 32), ("_SMALL_GAP", 8)):
        monkeypatch.setattr(object_store, name, size)
    monkeypatch.setattr(object_store, "_MOST_AHEAD", 256)


class TestReadAhead:
    """Sequential reads need few requests; random reads request only the wanted bytes."""

    @pytest.fixture
    def requests(self) -> list[tuple[int, int]]:
        return []

    @pytest.fixture
    def file(
        self, requests: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[int], None]:
        """A function that reads 16 bytes at an offset of a file of 4096 bytes."""
        _set_small_read_ahead(monkeypatch)
        memory = fsspec.filesystem("memory")
        content = bytes(number % 256 for number in range(4096))
        memory.pipe_file("/ahead", content)

        class RecordingStore:
            def cat_ranges(self, paths: list[str], starts: list[int], ends: list[int]) -> Any:
                requests.extend(zip(starts, ends, strict=True))
                return memory.cat_ranges(paths, starts, ends)

        opened = ReadAhead(RecordingStore(), "/ahead", size=4096, place="here")

        def read(start: int) -> None:
            buffer = bytearray(16)
            assert opened.read_into(start, memoryview(buffer)) == 16
            assert buffer == content[start : start + 16]

        return read

    def test_sequential_reads_request_large_ranges(
        self, file: Callable[[int], None], requests: list[tuple[int, int]]
    ) -> None:
        for start in range(0, 4096, 16):
            file(start)
        assert sum(stop - start for start, stop in requests) == 4096
        assert len(requests) < 70  # 4096 / 64, and the small first ones.
        assert max(stop - start for start, stop in requests) == 64

    def test_small_gaps_are_read_too(
        self, file: Callable[[int], None], requests: list[tuple[int, int]]
    ) -> None:
        for start in range(0, 4096, 20):
            file(start)
        assert len(requests) < 80

    def test_random_reads_request_only_the_wanted_bytes(
        self, file: Callable[[int], None], requests: list[tuple[int, int]]
    ) -> None:
        for start in range(4080, 1000, -500):
            file(start)
        assert {stop - start for start, stop in requests} == {16}


def test_an_interrupted_write_leaves_no_file_in_a_store(s3: None) -> None:
    folder = open_folder(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    for size in (10, 60 * 2**20):  # A small file, and one uploaded in several parts.
        with pytest.raises(OSError, match="no more"), folder.created("file") as file:
            file.write(bytes(size))
            raise ValueError("no more")
    assert folder.names() == []


def test_changes_by_other_clients_are_visible_immediately(s3: None) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    folder, other = open_folder(url), s3_client()
    assert folder.names() == []
    other.pipe_file(f"{url}/one", b"1")
    other.pipe_file(f"{url}/", b"")  # Web consoles mark folders this way.
    assert (folder.names(), folder.size("one")) == (["one"], 1)
    other.pipe_file(f"{url}/one", b"123")
    assert folder.size("one") == 3
    other.rm_file(f"{url}/one")
    assert (folder.names(), folder.size("one")) == ([], None)


def test_a_missing_bucket_is_named_and_not_created(s3: None) -> None:
    folder = open_folder("s3://bukcet/runs").child("tiny")
    with pytest.raises(FolderError, match="there is no bucket bukcet; make it"):
        folder.check_place()
    folder.make()
    with pytest.raises(FileNotFoundError, match="no such file or bucket"):
        folder.write("file", b"content")
    assert f"{BUCKET}" in str(s3_client().ls(""))
    assert "bukcet" not in str(s3_client().ls(""))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "", "AWS_ACCESS_KEY_ID": ""}, "Unable to locate credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Could not connect to the endpoint"),
    ],
)
def test_an_unreachable_store_gives_a_one_line_error(
    variables: dict[str, str], message: str, s3: None
) -> None:
    with use_environment(variables):
        folder = UrlFolder(f"s3://{BUCKET}/runs", *_new_client())
        with pytest.raises(FolderError, match=message) as caught:
            folder.check_place()
    assert "\n" not in str(caught.value)


def _new_client() -> tuple[Any, str]:
    quick = {"retries": {"max_attempts": 0}}
    system = fsspec.filesystem("s3", skip_instance_cache=True, config_kwargs=quick)
    system.retries = 1
    return system, f"{BUCKET}/runs"


def test_errors_of_a_store_become_one_line_os_errors(tmp_path: Path) -> None:
    folder = open_folder(f"faulty://{tmp_path}/unreachable")
    calls: list[Callable[[], object]] = [
        folder.names,
        folder.make,
        lambda: folder.size("file"),
        lambda: folder.read("file"),
        lambda: folder.opened("file"),
        lambda: folder.write("file", b""),
    ]
    for call in calls:
        with pytest.raises(OSError, match="StoreDown: the store is down") as caught:
            call()
        # Rank 0 sends the error to the other ranks.
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(CheckpointError, match=r"unreachable: StoreDown: the store is down$"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://bucket/runs", "Protocol not known: nowhere; give a path, or a URL such as"),
        ("memory://runs/a*", r"fsspec reads \*\?\[\] as a pattern; give another name"),
    ],
)
def test_an_unsupported_url_is_named(url: str, message: str) -> None:
    with pytest.raises(FolderError, match=f"^{url.replace('*', '[*]')}: {message}"):
        open_folder(url)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=r"runs: .*/file is not a folder; give another place"):
        DiskFolder(tmp_path / "file" / "runs").check_place()
    DiskFolder(tmp_path / "not" / "yet" / "there").check_place()


class TestFindCheckpoint:
    """`find_checkpoint`, on a disk and behind a URL."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        for name in ("step-00000004.try-1", "step-00000004.try-3", "step-00000008.try-2"):
            (tmp_path / "tiny" / name).mkdir(parents=True)
            (tmp_path / "tiny" / name / COMMIT_FILE).touch()
        return tmp_path / "tiny"

    @pytest.mark.parametrize("form", ["{}", "file://{}"])
    def test_a_step_without_try_means_the_newest_try(self, run: Path, form: str) -> None:
        place = form.format(run)
        found, _ = find_checkpoint(f"{place}/step-00000004")
        assert str(found) == f"{place}/step-00000004.try-3"
        found, _ = find_checkpoint(f"{place}/step-00000004.try-1/")
        assert found.name == "step-00000004.try-1"

    def test_checkpoints_copied_between_store_and_disk_are_found(self, run: Path) -> None:
        for each in (open_folder(run), open_folder(f"file://{run}")):
            names = [folder.name for folder in named_folders(each)]
            assert names == ["step-00000008.try-2", "step-00000004.try-3", "step-00000004.try-1"]
        shutil.move(run / "step-00000008.try-2", run / "step-00000008")
        assert named_folders(open_folder(f"file://{run}"))[0].name == "step-00000008"

    @pytest.mark.parametrize(
        ("place", "message"),
        [
            ("nothing", "nothing: neither a checkpoint nor a run folder with one; give"),
            ("file", "file: neither a checkpoint nor"),
            ("dangling", "dangling: a link to .*gone, which is not there; mount its disk"),
            ("tiny/step-00000012", "step-00000012: neither a checkpoint"),
        ],
    )
    def test_a_place_without_checkpoint_gives_a_one_line_error(
        self, place: str, message: str, run: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "dangling").symlink_to(tmp_path / "gone")
        with pytest.raises(CheckpointError, match=message) as caught:
            find_checkpoint(tmp_path / place)
        assert "\n" not in str(caught.value)
