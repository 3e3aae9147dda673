"""How a restarted run uses its complete, incomplete and damaged checkpoints."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from bigtrain.checkpoint.schema import COMMIT_FILE, KINDS
from bigtrain.config import RunConfig
from bigtrain.config.layout import ONE_PROCESS
from bigtrain.track.metrics_file import read_metrics
from tests.distributed.steps import load_and_save_again
from tests.ranks import RankError, run_ranks
from tests.runs import hash_tensors, in_layout, modification_times, tiny_config, train_rank


def _config(corpus: Path, runs: Path, layout: str, **sections: Any) -> tuple[RunConfig, int]:
    sections = {"train": {"steps": 6}, "optim": {"decay_steps": 20}, **sections}
    every = {"validation": {"every": 100}, "checkpoint": {"every": 4}}
    return in_layout(tiny_config(corpus, runs, **{**every, **sections}), layout)


def test_a_tied_embedding_that_two_stages_partition_differently_is_saved_once(
    corpus: Path, tmp_path: Path
) -> None:
    model = {"num_layers": 2}
    layout = "pipeline=2 data=2 zero=1"
    split, world_size = _config(corpus, tmp_path, layout, name="split", model=model)
    run_ranks(train_rank, world_size, split)
    saved = split.run_dir / "checkpoints" / "step-00000006"
    single, _ = _config(corpus, tmp_path, ONE_PROCESS, name="single", model=model)
    run_ranks(load_and_save_again, 1, single, saved, tmp_path)
    assert hash_tensors(tmp_path / saved.name, KINDS) == hash_tensors(saved, KINDS)


def test_a_run_may_change_its_layout_between_two_attempts(corpus: Path, tmp_path: Path) -> None:
    first, world_size = _config(corpus, tmp_path, "tensor=2")
    run_ranks(train_rank, world_size, first)
    second, world_size = _config(corpus, tmp_path, "pipeline=2", train={"steps": 9})
    outcome = run_ranks(train_rank, world_size, second)[0]
    assert (outcome.state, outcome.step) == ("finished", 9)
    lines = read_metrics(second.run_dir / "metrics.jsonl", "train")
    assert [line["attempt"] for line in lines] == [1] * 6 + [2] * 3
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_finished_run_started_again_does_nothing(corpus: Path, tmp_path: Path) -> None:
    config, _ = _config(corpus, tmp_path, ONE_PROCESS)
    first = run_ranks(train_rank, 1, config)[0]
    lines = (config.run_dir / "metrics.jsonl").read_text().count('"train"')
    second = run_ranks(train_rank, 1, config)[0]
    assert second == first
    assert (config.run_dir / "metrics.jsonl").read_text().count('"train"') == lines


def test_a_checkpoint_without_its_commit_is_skipped_and_set_aside(
    corpus: Path, tmp_path: Path
) -> None:
    config, _ = _config(corpus, tmp_path, ONE_PROCESS, train={"steps": 8})
    run_ranks(train_rank, 1, config)
    newest = config.run_dir / "checkpoints/step-00000008"
    (newest / COMMIT_FILE).unlink()
    more, _ = _config(corpus, tmp_path, ONE_PROCESS, train={"steps": 10})
    assert run_ranks(train_rank, 1, more)[0].step == 10
    names = sorted(path.name for path in newest.parent.iterdir())
    assert names == ["step-00000004", "step-00000008", "step-00000008.bad-2", "step-00000010"]
    assert (newest / COMMIT_FILE).exists()


def train_with_little_room(config: RunConfig) -> None:
    """Trains with a file size limit of 200 kB, to imitate a disk that is nearly full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    train_rank(config)


def test_a_save_without_enough_space_is_reported_and_leaves_no_partial_files(
    corpus: Path, tmp_path: Path
) -> None:
    stop = {"checkpoint": {"every": 4, "on_error": "stop"}}
    config, world_size = _config(corpus, tmp_path, "tensor=2", **stop)
    with pytest.raises(RankError, match=r"step-00000004: not saved: rank \d: .*File too large"):
        run_ranks(train_with_little_room, world_size, config)
    assert list((config.run_dir / "checkpoints").iterdir()) == []
    status = json.loads((config.run_dir / "status.json").read_text())
    assert status["state"] == "failed"
    assert "not saved" in status["reason"]
    # With enough space, the same command succeeds.
    assert run_ranks(train_rank, world_size, config)[0].state == "finished"


def test_an_unfinished_save_of_a_killed_attempt_is_cleared_away(
    corpus: Path, tmp_path: Path
) -> None:
    config, _ = _config(corpus, tmp_path, ONE_PROCESS)
    left = config.run_dir / "checkpoints" / "step-00000002.tmp-1"
    left.mkdir(parents=True)
    run_ranks(train_rank, 1, config)
    assert not left.exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"seed": 8}, "seed from 7 to 8"),
        ({"optim": {"decay_steps": 20, "learning_rate": 1e-3}}, "--accept-change optim.learning"),
    ],
)
def test_a_resume_that_changes_the_run_is_refused_and_changes_no_file(
    sections: Any, message: str, corpus: Path, tmp_path: Path
) -> None:
    config, _ = _config(corpus, tmp_path, ONE_PROCESS)
    run_ranks(train_rank, 1, config)
    before = modification_times(config.run_dir)
    other, _ = _config(corpus, tmp_path, ONE_PROCESS, **{"train": {"steps": 8}, **sections})
    with pytest.raises(RankError, match=message):
        run_ranks(train_rank, 1, other)
    assert modification_times(config.run_dir) == before


def test_a_change_accepted_by_its_key_is_made(corpus: Path, tmp_path: Path) -> None:
    config, _ = _config(corpus, tmp_path, ONE_PROCESS)
    run_ranks(train_rank, 1, config)
    optim = {"decay_steps": 20, "learning_rate": 1e-3}
    other, _ = _config(corpus, tmp_path, ONE_PROCESS, train={"steps": 8}, optim=optim)
    run_ranks(train_rank, 1, other, accept_changes=["optim.learning_rate"])
    last = read_metrics(config.run_dir / "metrics.jsonl", "train")[-1]
    assert last["step"] == 8
    assert last["learning_rate"] < 1e-3
