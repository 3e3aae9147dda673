"""Rank 0 takes the lock of its run, or says why it cannot."""

from pathlib import Path

import pytest

from bigtrain.commands.error_report import explain
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.run_lock import RankRefusedError, run_lock
from bigtrain.train.attempt_record import lock_run
from tests.runs import tiny_config


def test_a_rank_whose_run_is_locked_may_be_started_again(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path)
    with run_lock(config.run_dir), pytest.raises(RankRefusedError) as refused:
        lock_run(RunFolder(config.run_dir), config)
    message, exit_code, is_expected = explain(refused.value)
    assert "is training this run" in message
    # Exit code 2, that of bad input, would end a supervised run for good.
    assert (exit_code, is_expected) == (1, True)


def test_a_rank_whose_run_was_rewound_meanwhile_may_be_started_again(
    corpus: Path, tmp_path: Path
) -> None:
    config = tiny_config(corpus, tmp_path)
    config.run_dir.mkdir()
    skips = "data: {skip: [{first_sample: 8, samples: 16}]}\n"
    (config.run_dir / "skip.yaml").write_text(skips)
    with pytest.raises(RankRefusedError, match="rewound while this attempt started"):
        lock_run(RunFolder(config.run_dir), config)
