"""Checkpoints in object stores, which have no rename: only the marker commits a checkpoint."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bigtrain.checkpoint.commit import newest_complete
from bigtrain.checkpoint.retention import clear_unfinished, remove_checkpoint, set_aside
from bigtrain.checkpoint.schema import COMMIT_FILE, KINDS
from bigtrain.checkpoint.step_folders import named_folders
from bigtrain.checkpoint.storage_folder import FolderError, UrlFolder, open_folder
from bigtrain.cli import app
from bigtrain.config import ConfigError, RunConfig
from bigtrain.runs.report_figures import read_report
from bigtrain.runs.resume_checks import check_run
from bigtrain.track.metrics_file import read_metrics
from tests.ranks import RankError, run_ranks
from tests.runs import hash_tensors, tiny_config, train_rank
from tests.stores import BUCKET, FaultyStore, s3_server, use_environment

STEPS = 12


def _config(corpus: Path, runs: Path, **sections: Any) -> RunConfig:
    """The config of a run of 12 steps that saves every 4 steps."""
    values: dict[str, Any] = {
        "train": {"steps": STEPS},
        "optim": {"decay_steps": 20},
        "validation": {"every": 100},
        "parallel": {"zero": 1, "device": "cpu"},
        **sections,
        "checkpoint": {"every": 4, "dir": f"file://{runs}/store", **sections.get("checkpoint", {})},
    }
    return tiny_config(corpus, runs, **values)


def _names(config: RunConfig) -> list[str]:
    assert config.checkpoint.dir is not None
    return open_folder(config.checkpoint.dir).child(config.name).names()


def _store(config: RunConfig) -> Path:
    """The local folder of a file:// store."""
    assert config.checkpoint.dir is not None
    return Path(re.sub(r"^\w+://", "", config.checkpoint.dir)) / config.name


@pytest.fixture(scope="module")
def uninterrupted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of the last tensors of an uninterrupted run with checkpoints on a disk."""
    config = _config(corpus, tmp_path_factory.mktemp("uninterrupted"), checkpoint={"dir": None})
    run_ranks(train_rank, 2, config)
    return hash_tensors(config.run_dir / "checkpoints/step-00000012", KINDS)


@dataclass(frozen=True)
class Moment:
    """When a rank is killed: before the n-th Python audit event of a kind on a path."""

    event: str
    path: str
    count: int = 1
    rank: int = 0
    newest: int | None = 4
    """The step of the newest complete checkpoint after the kill."""


BEFORE_COMMIT = Moment("open", r"step-00000008\.try-1/COMMIT\.json$")
MOMENTS = (
    Moment("open", r"step-00000004\.try-1/rank-00001\.bin$", rank=1, newest=None),
    Moment("open", r"step-00000008\.try-1/rank-00000\.bin$"),
    Moment("open", r"step-00000008\.try-1/rank-00001\.json$", rank=1),
    Moment("open", r"step-00000008\.try-1/tensors\.json$"),
    Moment("open", r"step-00000008\.try-1/state\.json$"),
    # Removal of step 4 after the save of step 12: before its marker, after it, among its files.
    Moment("os.remove", r"step-00000004\.try-1/COMMIT\.json$", newest=12),
    Moment("shutil.rmtree", r"step-00000004\.try-1$", newest=12),
    Moment("os.remove", r"^(rank|state|tensors|tokenizer)", count=3, newest=12),
)


def train_and_kill(config: RunConfig, moment: Moment) -> Any:
    """Runs ``train_rank``; one rank kills itself at a moment; for ``run_ranks``."""
    left = moment.count

    def audit(event: str, values: tuple[Any, ...]) -> None:
        nonlocal left
        is_read = event == "open" and "w" not in str(values[1])
        if event != moment.event or is_read or not re.search(moment.path, str(values[0])):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if int(os.environ["RANK"]) == moment.rank:
        sys.addaudithook(audit)
    return train_rank(config)


def _kill_and_resume(
    moment: Moment, corpus: Path, runs: Path, uninterrupted: dict[str, str]
) -> list[str]:
    config = _config(corpus, runs, checkpoint={"keep_last": 2})
    with pytest.raises(RankError, match="died without reporting an error"):
        run_ranks(train_and_kill, 2, config, moment, timeout=60)
    newest, skipped = newest_complete(UrlFolder(f"file://{_store(config)}"))
    assert skipped == []
    assert (
        newest == moment.newest
        if newest is None
        else newest.name.startswith(f"step-{moment.newest:08d}")
    )
    run_ranks(train_rank, 2, config)
    names = _names(config)
    assert hash_tensors(f"{config.checkpoint.dir}/tiny/{names[-1]}", KINDS) == uninterrupted
    first_steps = [line["step"] for line in _starts(config)]
    assert first_steps == [0, moment.newest or 0]
    return names


def _starts(config: RunConfig) -> list[dict[str, Any]]:
    lines = (config.run_dir / "attempts.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "start"]


def test_a_folder_without_marker_of_a_killed_rank_is_not_loaded_and_is_removed(
    corpus: Path, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    names = _kill_and_resume(BEFORE_COMMIT, corpus, tmp_path, uninterrupted)
    assert names == ["step-00000008.try-2", "step-00000012.try-2"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda each: f"{each.event} {each.path}")
def test_a_rank_killed_at_any_moment_leaves_a_run_that_ends_in_the_same_bits(
    moment: Moment, corpus: Path, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    names = _kill_and_resume(moment, corpus, tmp_path, uninterrupted)
    assert [name[:13] for name in names if name > "step-00000008"] == [
        "step-00000008",
        "step-00000012",
    ]
    store = _store(_config(corpus, tmp_path))
    assert all((store / name / COMMIT_FILE).exists() for name in names[1:])


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of 8 steps whose checkpoints are in a store; tests copy it."""
    config = _config(corpus, tmp_path_factory.mktemp("run"), train={"steps": 8})
    run_ranks(train_rank, 2, config)
    return config


@pytest.fixture
def copied(run: RunConfig, corpus: Path, tmp_path: Path) -> RunConfig:
    """A copy of the run and its store that a test may damage, configured for 12 steps."""
    shutil.copytree(Path(run.runs_dir), tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tiny" / "config.yaml"
    file.write_text(file.read_text().replace(str(run.runs_dir), str(tmp_path)))
    return _config(corpus, tmp_path)


def test_a_checkpoint_with_a_flipped_bit_is_skipped_and_the_step_is_saved_again(
    copied: RunConfig, uninterrupted: dict[str, str]
) -> None:
    bad = _store(copied) / "step-00000008.try-1"
    data = bytearray((bad / "rank-00001.bin").read_bytes())
    data[5000] ^= 1
    (bad / "rank-00001.bin").write_bytes(data)
    run_ranks(train_rank, 2, copied)
    assert [line["step"] for line in _starts(copied)] == [0, 4]
    assert (bad / "rank-00001.bin").read_bytes() == data
    assert [path.name for path in bad.glob("COMMIT*")] == ["COMMIT.bad-2.json"]
    url = f"file://{_store(copied)}"
    folders = named_folders(open_folder(url))
    assert [each.name for each in folders] == [
        "step-00000012.try-2",
        "step-00000008.try-2",
        "step-00000004.try-1",
    ]
    assert hash_tensors(str(folders[0]), KINDS) == uninterrupted
    remove_checkpoint(folders[0])
    newest, _ = newest_complete(open_folder(url))
    assert str(newest) == f"{url}/step-00000008.try-2"


def test_rewind_and_report_find_checkpoints_in_the_store(copied: RunConfig) -> None:
    report = read_report(copied.run_dir)
    assert report.parameters is not None
    assert report.parameters > 10_000
    answer = CliRunner().invoke(app, ["rewind", str(copied.run_dir), "--to", "4"])
    assert answer.exit_code == 0, answer.output
    marked = "step-00000008.try-1 (with COMMIT.rewound-1.json for its COMMIT.json)"
    assert f"set aside, not deleted: {marked}" in answer.output
    url = f"file://{_store(copied)}"
    clear_unfinished(open_folder(url))  # The next attempt does the same.
    assert _names(copied) == ["step-00000004.try-1", "step-00000008.try-1"]
    assert [each.name for each in named_folders(open_folder(url))] == ["step-00000004.try-1"]
    shutil.rmtree(_store(copied))
    assert read_report(copied.run_dir).parameters == 0


def test_a_run_whose_folder_is_lost_resumes_and_overwrites_nothing(
    copied: RunConfig, uninterrupted: dict[str, str]
) -> None:
    shutil.rmtree(copied.run_dir)
    set_aside(open_folder(f"file://{_store(copied)}/step-00000008.try-1"), "bad-1")
    run_ranks(train_rank, 2, copied)
    assert [(each["attempt"], each["step"]) for each in _starts(copied)] == [(2, 4)]
    names = [f"step-{step}" for step in ("00000004.try-1", "00000008.try-1", "00000008.try-2")]
    assert _names(copied) == [*names, "step-00000012.try-2"]
    assert hash_tensors(f"file://{_store(copied)}/step-00000012.try-2", KINDS) == uninterrupted


def test_a_report_does_not_need_a_reachable_store(copied: RunConfig) -> None:
    file = copied.run_dir / "config.yaml"
    file.write_text(re.sub(r"file://\S*", "faulty:///unreachable", file.read_text()))
    answer = CliRunner().invoke(app, ["report", str(copied.run_dir)])
    assert answer.exit_code == 0, answer.output
    assert "no checkpoint can be read" in answer.output


def test_another_checkpoint_place_is_refused_until_the_checkpoints_are_moved(
    copied: RunConfig, corpus: Path, tmp_path: Path
) -> None:
    for place in ("other", None):
        other = _config(corpus, tmp_path, checkpoint={"dir": place and str(tmp_path / place)})
        with pytest.raises(ConfigError, match=r"set checkpoint\.dir back, or move them there"):
            check_run(other)
    shutil.move(_store(copied), tmp_path / "tiny" / "checkpoints")
    check_run(other)
    run_ranks(train_rank, 2, other)
    assert [line["step"] for line in _starts(other)] == [0, 8]
    names = ["step-00000004.try-1", "step-00000008.try-1", "step-00000012"]
    assert [path.name for path in sorted((other.run_dir / "checkpoints").iterdir())] == names
    # And back: a checkpoint with a disk's folder name is also a checkpoint in a store.
    shutil.copytree(other.run_dir / "checkpoints", _store(copied))
    check_run(copied)
    newest, _ = newest_complete(open_folder(f"file://{_store(copied)}"))
    assert newest is not None
    assert newest.name == "step-00000012"


class TestFoldersOfAStore:
    """Clearing, setting aside and removing folders, without ranks."""

    @pytest.fixture(params=["file", "memory"])
    def checkpoints(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UrlFolder]:
        folder = UrlFolder(f"{request.param}://{tmp_path}/store")
        yield folder
        folder.remove()

    def _add(self, checkpoints: UrlFolder, name: str, *files: str) -> UrlFolder:
        folder = checkpoints.child(name)
        folder.make()
        for file in ("rank-00000.bin", "state.json", *files):
            folder.write(file, b"{}")
        return folder

    def test_only_folders_that_never_had_a_marker_are_cleared(self, checkpoints: UrlFolder) -> None:
        self._add(checkpoints, "step-00000004.try-1", COMMIT_FILE)
        self._add(checkpoints, "step-00000008.try-1")
        self._add(checkpoints, "step-00000008.try-2", "COMMIT.bad-3.json")
        self._add(checkpoints, "step-00000012.try-2", "COMMIT.rewound-2.json")
        self._add(checkpoints, "somebody's")
        assert [each.name for each in named_folders(checkpoints)] == ["step-00000004.try-1"]
        clear_unfinished(checkpoints)
        assert checkpoints.names() == [
            "somebody's",
            "step-00000004.try-1",
            "step-00000008.try-2",
            "step-00000012.try-2",
        ]

    def test_setting_aside_renames_only_the_marker(self, checkpoints: UrlFolder) -> None:
        folder = self._add(checkpoints, "step-00000004.try-1", COMMIT_FILE)
        set_aside(folder, "bad-2")
        assert folder.names() == ["COMMIT.bad-2.json", "rank-00000.bin", "state.json"]
        assert named_folders(checkpoints) == []

    def test_an_interrupted_removal_leaves_no_checkpoint(
        self, checkpoints: UrlFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = self._add(checkpoints, "step-00000004.try-1", COMMIT_FILE)

        def interrupt(self: UrlFolder) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(UrlFolder, "remove", interrupt)
            remove_checkpoint(folder)
        assert folder.names() == ["rank-00000.bin", "state.json"]
        assert named_folders(checkpoints) == []
        clear_unfinished(checkpoints)
        assert checkpoints.names() == []


def train_while_the_store_is_down(config: RunConfig) -> Any:
    """Runs ``train_rank`` while rank 1 cannot write its file of step 4; for ``run_ranks``."""
    fail = FaultyStore._fail

    def fails(self: FaultyStore, path: Any) -> None:
        fail(self, "unreachable" if "step-00000004.try-1/rank-00001" in str(path) else path)

    FaultyStore._fail = fails  # type: ignore[method-assign]
    return train_rank(config)


def test_a_run_survives_a_store_that_is_down_during_one_save(corpus: Path, tmp_path: Path) -> None:
    place = {"dir": f"faulty://{tmp_path}/store"}
    config = _config(corpus, tmp_path, checkpoint=place, train={"steps": 8})
    assert run_ranks(train_while_the_store_is_down, 2, config)[0].state == "finished"
    assert _names(config) == ["step-00000008.try-1"]
    saved = read_metrics(config.run_dir / "metrics.jsonl", "checkpoint")
    assert [line["step"] for line in saved] == [8]


def test_a_run_with_an_unusable_checkpoint_place_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, error, message in (
        ("faulty:///unreachable", OSError, "StoreDown: the store is down"),
        ("nowhere://bucket", FolderError, "Protocol not known: nowhere"),
        (str(tmp_path / "file"), FolderError, "file is not a folder; give another place"),
    ):
        with pytest.raises(error, match=message):
            check_run(_config(corpus, tmp_path, checkpoint={"dir": place}))
    assert not (tmp_path / "tiny").exists()


def test_a_url_as_runs_folder_is_refused_and_the_right_key_is_suggested(corpus: Path) -> None:
    with pytest.raises(ValueError, match=r"and set checkpoint\.dir=s3://bucket/runs for"):
        tiny_config(corpus, Path("unused"), runs_dir="s3://bucket/runs")


def train_in_s3(config: RunConfig, environment: dict[str, str]) -> Any:
    """Sets the store's environment variables and trains; for ``run_ranks``."""
    os.environ.update(environment)
    return train_rank(config)


def export_from_s3(place: str, out: Path, environment: dict[str, str]) -> Any:
    """Sets the store's environment variables and exports; for ``run_ranks``."""
    from bigtrain.convert.export import export_hugging_face

    os.environ.update(environment)
    return export_hugging_face(place, out)


@pytest.mark.slow
def test_a_run_in_s3_is_stopped_resumed_and_exported(
    corpus: Path, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    place = {"dir": f"s3://{BUCKET}/runs", "keep_last": 2}
    with s3_server() as environment, use_environment(environment):
        config = _config(corpus, tmp_path, checkpoint=place, train={"steps": 5})
        assert run_ranks(train_in_s3, 2, config, environment)[0].step == 5
        assert _names(config) == ["step-00000004.try-1", "step-00000005.try-1"]
        config = _config(corpus, tmp_path, checkpoint=place)
        check_run(config)
        last = run_ranks(train_in_s3, 2, config, environment)[0]
        assert last.checkpoint == f"s3://{BUCKET}/runs/tiny/step-00000012.try-2"
        assert _names(config) == ["step-00000008.try-2", "step-00000012.try-2"]
        assert hash_tensors(last.checkpoint, KINDS) == uninterrupted
        fork = config.model_copy(
            update={
                "name": "fork",
                "checkpoint": config.checkpoint.model_copy(
                    update={"load": f"s3://{BUCKET}/runs/tiny/step-00000008"}
                ),
            }
        )
        check_run(fork)
        run_ranks(train_in_s3, 2, fork, environment)
        forked = hash_tensors(f"s3://{BUCKET}/runs/fork/step-00000012.try-1", KINDS)
        assert forked == uninterrupted
        for number, source in enumerate((last.checkpoint, str(config.run_dir))):
            out = tmp_path / f"exported-{number}"
            export = run_ranks(export_from_s3, 1, source, out, environment)[0]
            assert export.logits.largest <= 1e-4
            assert (out / "model.safetensors").is_file()
