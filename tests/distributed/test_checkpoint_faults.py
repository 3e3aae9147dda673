"""Damaged checkpoints are reported in one line, and the run resumes from a complete one."""

import errno
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bigtrain.checkpoint.commit import newest_complete
from bigtrain.checkpoint.schema import (
    COMMIT_FILE,
    STATE_FILE,
    TENSORS_FILE,
    TOKENIZER_FILE,
    CheckpointError,
    StorageError,
)
from bigtrain.checkpoint.storage_folder import DiskFolder
from bigtrain.config import ConfigError, RunConfig
from bigtrain.runs.resume_checks import check_run
from bigtrain.track.metrics_file import read_metrics
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from tests.bigtrain.commands.checkpoint.damage import commit_again
from tests.distributed.faulty_saves import (
    BOXES,
    checkpoint_names,
    checkpoint_of,
    flip_bit,
    read_all,
    small_config,
    train_and_collect_log,
    train_with_unreadable_boxes,
    truncate_to_half,
)
from tests.distributed.test_launch import Launched
from tests.ranks import RankError, run_ranks
from tests.runs import make_corpus, modification_times, train_rank

FILES = (COMMIT_FILE, STATE_FILE, TENSORS_FILE, TOKENIZER_FILE, BOXES)


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a run with checkpoints of steps 4 and 8."""
    config = small_config(corpus, tmp_path_factory.mktemp("runs"))
    run_ranks(train_rank, 1, config)
    return config.run_dir


@pytest.fixture
def run(trained: Path, corpus: Path, tmp_path: Path) -> RunConfig:
    """A copy of that run, configured to take two more steps."""
    config = small_config(corpus, tmp_path, train={"steps": 10})
    shutil.copytree(trained, config.run_dir)
    return config


def _change_commit(checkpoint: Path, **changes: Any) -> None:
    file = checkpoint / COMMIT_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _remove(file: Path) -> None:
    file.unlink()


def _empty(file: Path) -> None:
    file.write_bytes(b"")


class TestDamagedFileOfTheNewestCheckpoint:
    """A file of any kind, damaged in any way, is named in one line."""

    @pytest.mark.parametrize("damage", [_remove, _empty, truncate_to_half, flip_bit])
    @pytest.mark.parametrize("name", FILES)
    def test_is_named_and_the_previous_checkpoint_is_used(
        self, name: str, damage: Callable[[Path], None], run: RunConfig
    ) -> None:
        newest = checkpoint_of(run, 8)
        damage(newest / name)
        if (name, damage) == (BOXES, flip_bit):
            with pytest.raises(CheckpointError, match=BOXES) as raised:
                read_all(DiskFolder(newest))
            lines = [str(raised.value)]
        else:
            found, lines = newest_complete(DiskFolder(newest.parent))
            assert str(found) == str(checkpoint_of(run, 4))
        [line] = lines
        assert str(newest / name) in line
        assert "; use another" in line
        assert "\n" not in line
        check_run(run)  # The run can resume from the previous checkpoint.

    def test_is_logged_by_the_run_that_resumes_from_the_previous_checkpoint(
        self, run: RunConfig
    ) -> None:
        truncate_to_half(checkpoint_of(run, 8) / TENSORS_FILE)
        outcome, lines = run_ranks(train_and_collect_log, 1, run)[0]
        assert outcome == "finished"
        reported = [line for line in lines if "step-00000008" in line]
        assert reported[0].startswith("skipped step-00000008: ")
        assert f"/step-00000008/{TENSORS_FILE} has" in reported[0]
        assert reported[1].endswith("is now step-00000008.bad-2")
        assert f"resumed from {checkpoint_of(run, 4)}, at step 4" in lines
        assert checkpoint_names(run) == [
            "step-00000004",
            "step-00000008",
            "step-00000008.bad-2",
            "step-00000010",
        ]


class _MaliciousPickle:
    """Unpickling this object creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


class TestAPickle:
    """A pickle in the place of any file is an error, and its code never runs."""

    def test_would_run_code_if_unpickled(self, tmp_path: Path) -> None:
        pickle.loads(pickle.dumps(_MaliciousPickle(tmp_path / "sprung")))
        assert (tmp_path / "sprung").exists()

    @pytest.mark.parametrize("name", [COMMIT_FILE, STATE_FILE, TENSORS_FILE, BOXES])
    def test_in_a_checkpoint_is_never_unpickled(self, name: str, run: RunConfig) -> None:
        newest, sprung = checkpoint_of(run, 8), run.run_dir / "sprung"
        trap = pickle.dumps(_MaliciousPickle(sprung))
        (newest / ".metadata").write_bytes(trap)  # torch's own checkpoints have this file.
        (newest / name).write_bytes(trap)
        if name != COMMIT_FILE:
            commit_again(newest)
        assert run_ranks(train_rank, 1, run)[0].step == 10
        steps = read_metrics(run.run_dir / "metrics.jsonl", "train")
        assert [line["attempt"] for line in steps] == [1] * 4 + [2] * 6
        assert (newest.with_name("step-00000008.bad-2") / name).read_bytes() == trap
        assert not sprung.exists()


class TestUnreachableStorage:
    """An unreachable checkpoint is not a bad one: the run stops and changes no file."""

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (
                OSError(errno.EIO, "Input/output error"),
                r"step-00000008/rank-00000\.bin: Input/output error; try again when",
            ),
            (KeyboardInterrupt(), "KeyboardInterrupt"),
            (MemoryError(), "MemoryError"),
        ],
        ids=repr,
    )
    def test_stops_a_run_that_would_load_boxes(
        self, error: BaseException, message: str, run: RunConfig
    ) -> None:
        before = modification_times(run.run_dir)
        with pytest.raises(RankError, match=message):
            run_ranks(train_with_unreadable_boxes, 1, run, error)
        assert modification_times(run.run_dir) == before

    def test_that_shows_no_checkpoint_does_not_restart_the_run(self, run: RunConfig) -> None:
        shutil.rmtree(run.run_dir / "checkpoints")
        before = modification_times(run.run_dir)
        message = "the run has saved .*step-00000008, and .* is empty or missing"
        with pytest.raises(ConfigError, match=message):
            check_run(run)
        with pytest.raises(RankError, match=message):
            run_ranks(train_rank, 1, run)
        assert modification_times(run.run_dir) == before

    def test_stops_the_search_for_the_newest(self, run: RunConfig) -> None:
        class OutOfReach(DiskFolder):
            def read(self, name: str) -> bytes:
                raise OSError(errno.EIO, "Input/output error")

            def child(self, name: str) -> DiskFolder:
                return OutOfReach(self.path / name)

        with pytest.raises(StorageError, match=r"step-00000008/COMMIT\.json: Input/output error"):
            newest_complete(OutOfReach(run.run_dir / "checkpoints"))


class TestALaunch:
    """Output and exit code of `bigtrain launch`."""

    def test_with_a_flipped_bit_resumes_from_the_previous_checkpoint(self, run: RunConfig) -> None:
        flip_bit(checkpoint_of(run, 8) / BOXES)
        exit_code, output = Launched(run, run.run_dir.parent).end()
        assert exit_code == 0, output
        assert f"step-00000008/{BOXES}: the bytes of" in output
        assert output.count("skipped step-00000008") == 1
        assert "Traceback" not in output

    def test_without_a_readable_checkpoint_is_refused_before_a_rank_starts(
        self, run: RunConfig
    ) -> None:
        for step in (4, 8):
            _change_commit(checkpoint_of(run, step), schema="bigtrain-checkpoint/9")
        before = modification_times(run.run_dir)
        exit_code, output = Launched(run, run.run_dir.parent).end()
        assert exit_code == 2, output
        assert len(output.splitlines()) == 1, output
        assert "no checkpoint can be read" in output
        assert "has schema bigtrain-checkpoint/9" in output
        assert "upgrade bigtrain" in output
        assert modification_times(run.run_dir) == before


def test_a_checkpoint_of_a_future_schema_is_skipped(run: RunConfig) -> None:
    _change_commit(checkpoint_of(run, 8), schema="bigtrain-checkpoint/9")
    found, [line] = newest_complete(DiskFolder(run.run_dir / "checkpoints"))
    assert found is not None
    assert found.name == "step-00000004"
    assert "bigtrain-checkpoint/9" in line
    assert line.endswith("upgrade bigtrain")
    check_run(run)


def test_a_run_with_only_damaged_checkpoints_stops_and_changes_no_file(run: RunConfig) -> None:
    for step in (4, 8):
        flip_bit(checkpoint_of(run, step) / BOXES)
    before = modification_times(run.run_dir)
    with pytest.raises(RankError, match=r"CheckpointError: .*: no checkpoint can be read"):
        run_ranks(train_rank, 1, run)
    assert modification_times(run.run_dir) == before


def test_a_dangling_link_is_not_a_checkpoint(run: RunConfig, corpus: Path, tmp_path: Path) -> None:
    latest = run.run_dir / "checkpoints" / "latest"
    latest.symlink_to("step-00000099")
    check_run(run)
    fork = small_config(corpus, tmp_path, name="fork", checkpoint={"load": str(latest)})
    with pytest.raises(CheckpointError, match="latest: ") as raised:
        check_run(fork)
    assert len(str(raised.value).splitlines()) == 1
    # The folder that contains the link still names a checkpoint.
    more = {"name": "fork", "train": {"steps": 10}}
    check_run(small_config(corpus, tmp_path, **more, checkpoint={"load": str(latest.parent)}))


@pytest.fixture(scope="module")
def other_corpora(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two other corpora: one with another tokenizer, one of other texts with the same tokenizer."""
    other = make_corpus(tmp_path_factory.mktemp("other"), seed=1)
    out = tmp_path_factory.mktemp("texts") / "corpus"
    tokenizer = corpus.parent / "tokenizer.model"
    texts = str(other.parent / "texts")
    options = ShardOptions(validation_percent=20)
    shard_corpus([texts], tokenizer=tokenizer, out=out, options=options)
    return {"tokenizer": other, "texts": out}


def test_a_checkpoint_of_another_model_tokenizer_or_corpus_is_refused(
    run: RunConfig, corpus: Path, other_corpora: dict[str, Path], tmp_path: Path
) -> None:
    model = {**run.model.model_dump(), "hidden_size": 64}
    steps = {"train": {"steps": 10}}
    others = {
        "model.hidden_size from 32 to 64": small_config(corpus, tmp_path, model=model, **steps),
        "was trained with tokenizer": small_config(other_corpora["tokenizer"], tmp_path, **steps),
        "had corpora 1 × ": small_config(other_corpora["texts"], tmp_path, **steps),
    }
    before = modification_times(run.run_dir)
    for message, config in others.items():
        with pytest.raises(ConfigError) as raised:
            check_run(config)
        assert message in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1
    # The ranks check again, because the checkpoint may have changed since.
    with pytest.raises(RankError, match=r"model\.hidden_size from 32 to 64"):
        run_ranks(train_rank, 1, others["model.hidden_size from 32 to 64"])
    assert modification_times(run.run_dir) == before
