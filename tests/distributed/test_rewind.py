"""`bigtrain rewind` returns a diverged run to a checkpoint and skips its bad samples."""

import json
import math
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bigtrain.cli import app
from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.data import SkipConfig, merge_skips
from bigtrain.runs.documents_of_step import find_samples
from bigtrain.runs.report_figures import read_report
from bigtrain.runs.report_table import render_report
from bigtrain.runs.resume_checks import check_run
from bigtrain.runs.rewind import RewindError, rewind_run
from bigtrain.runs.run_lock import RunBusyError, run_lock
from bigtrain.runs.skip_file import read_skips, with_skips
from bigtrain.track.json_lines import read_lines
from bigtrain.track.metrics_file import read_metrics
from tests.distributed.test_guard_skips import Fault, train_with_faults
from tests.ranks import RankError, run_ranks
from tests.runs import tiny_config, train_rank, train_resolved

BAD = Fault(80, 24, math.nan)


def _config(corpus: Path, runs: Path) -> RunConfig:
    return tiny_config(
        corpus,
        runs,
        train={"steps": 16},
        guard={"stop_after": 3},
        checkpoint={"every": 4},
        validation={"every": 100},
    )


@pytest.fixture(scope="module")
def diverged(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, str]:
    """A run that diverged at step 13 because of samples 80 to 103, and its error message."""
    config = _config(corpus, tmp_path_factory.mktemp("diverged"))
    with pytest.raises(RankError) as caught:
        run_ranks(train_with_faults, 1, config, [BAD])
    return config, str(caught.value)


@pytest.fixture
def run(diverged: tuple[RunConfig, str], corpus: Path, tmp_path: Path) -> RunConfig:
    """A copy of the diverged run, to be rewound."""
    shutil.copytree(diverged[0].run_dir, tmp_path / "tiny")
    return _config(corpus, tmp_path)


def _checkpoints(config: RunConfig) -> list[str]:
    return sorted(path.name for path in (config.run_dir / "checkpoints").iterdir())


def test_the_command_in_the_error_message_rewinds_the_run_and_the_bad_samples_are_skipped(
    diverged: tuple[RunConfig, str], run: RunConfig
) -> None:
    [command] = re.findall(r"`bigtrain (rewind [^`]*)`", diverged[1].splitlines()[-1])
    words = shlex.split(command.replace(str(diverged[0].run_dir), str(run.run_dir)))
    assert _checkpoints(run) == ["step-00000004", "step-00000008", "step-00000012"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    assert answer.output.splitlines() == [
        f"{run.run_dir}: resumes from step 8",
        "  set aside, not deleted: step-00000012.rewound-1",
        f"  24 samples from 80 are skipped ({run.run_dir}/skip.yaml)",
        f"next: bigtrain launch {run.run_dir}",
    ]
    run_ranks(train_with_faults, 2, run, [BAD])  # The same config and the same faults.
    lines = read_metrics(run.run_dir / "metrics.jsonl", "train")
    assert [line["step"] for line in lines] == [*range(1, 17)]
    assert {line["step"] for line in lines if line["attempt"] == 2} == {*range(9, 17)}
    assert not any(line.get("skipped") for line in lines)
    read = [sample.sample for step in range(1, 17) for sample in find_samples(run.run_dir, step)]
    assert read == [*range(80), *range(104, 152)]
    assert "step-00000016" in _checkpoints(run)
    assert "step-00000012.rewound-1" in _checkpoints(run)
    events = [event["event"] for event in read_lines(run.run_dir / "attempts.jsonl")]
    assert events == ["start", "end", "rewind", "start", "end"]


def test_samples_of_future_steps_are_listed_without_skipped_samples(run: RunConfig) -> None:
    rewind_run(run.run_dir, to=12, skip_samples="112:8")
    assert next(iter(find_samples(run.run_dir, 15))).sample == 120


def test_repeating_a_rewind_changes_nothing(run: RunConfig) -> None:
    first = rewind_run(run.run_dir, to=4, skip_steps="11:13")
    assert first.set_aside == ("step-00000012.rewound-1", "step-00000008.rewound-1")
    skips = read_skips(run.run_dir)
    assert rewind_run(run.run_dir, to=4, skip_steps="11:13").set_aside == ()
    status = json.loads((run.run_dir / "status.json").read_text())
    assert (status["state"], status["step"]) == ("rewound", 4)
    assert status["last_checkpoint"].endswith("step-00000004")
    assert read_skips(run.run_dir) == skips == (SkipConfig(first_sample=80, samples=24),)


def test_repeating_a_killed_rewind_finishes_it(
    run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, renamed = Path.rename, []

    def interrupt_second_rename(self: Path, target: Path) -> Path:
        if renamed:
            raise KeyboardInterrupt
        renamed.append(self.name)
        return rename(self, target)

    folder = run.run_dir
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", interrupt_second_rename)
        rewind_run(folder, to=4, skip_samples="40:8")
    # The newest checkpoint is renamed first, and no run resumes from the rest without the skip.
    assert renamed == ["step-00000012"]
    with pytest.raises(ConfigError, match=r"data\.skip"):
        check_run(with_skips(run))
    rewind_run(folder, to=4, skip_samples="40:8")
    assert _checkpoints(run)[0] == "step-00000004"
    assert [name[-9:] for name in _checkpoints(run)[1:]] == ["rewound-1", "rewound-1"]
    assert read_skips(folder) == (SkipConfig(first_sample=40, samples=8),)
    check_run(with_skips(run))


def test_a_rewind_while_an_attempt_starts_ends_the_attempt(run: RunConfig) -> None:
    rewind_run(run.run_dir, to=4, skip_samples="80:24")
    attempts = (run.run_dir / "attempts.jsonl").read_text()
    with pytest.raises(RankError, match="was rewound while this attempt started; start it again"):
        run_ranks(train_resolved, 1, run)
    assert (run.run_dir / "attempts.jsonl").read_text() == attempts


def test_the_report_shows_a_diverged_run_and_then_the_rewound_run(
    run: RunConfig,
) -> None:
    ended = read_report(run.run_dir)
    assert ended.step == 13
    assert math.isnan(ended.last_loss)
    assert "nan" in str(list(render_report(ended, exported=None).columns[1].cells)[3])
    rewind_run(run.run_dir, to=4)
    shorter = run.model_copy(update={"train": run.train.model_copy(update={"steps": 6})})
    run_ranks(train_rank, 1, shorter, accept_changes=["train.steps"])
    left = read_report(run.run_dir)
    assert left.step == 6
    assert math.isfinite(left.last_loss)


def test_a_run_can_be_rewound_to_step_0(run: RunConfig) -> None:
    rewind_run(run.run_dir, to=0, skip_samples="0:8")
    assert all("rewound-1" in name for name in _checkpoints(run))
    check_run(with_skips(run))
    assert with_skips(run).data.skip == (SkipConfig(first_sample=0, samples=8),)


def test_ranges_of_several_rewinds_and_of_the_config_are_merged_in_order(run: RunConfig) -> None:
    rewind_run(run.run_dir, to=8, skip_samples="96:8")
    rewind_run(run.run_dir, to=8, skip_samples="80:8")
    rewind_run(run.run_dir, to=8, skip_samples="84:10")
    asked = run.data.model_copy(update={"skip": (SkipConfig(first_sample=94, samples=1),)})
    merged = with_skips(run.model_copy(update={"data": asked})).data.skip
    assert [(skip.first_sample, skip.samples) for skip in merged] == [(80, 15), (96, 8)]


def test_adjacent_ranges_are_merged() -> None:
    ranges = [(10, 5), (0, 3), (15, 5), (11, 2)]
    merged = merge_skips(SkipConfig(first_sample=a, samples=n) for a, n in ranges)
    assert [(skip.first_sample, skip.samples) for skip in merged] == [(0, 3), (10, 10)]


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        (9, {}, r"no checkpoint of step 9; there are: 4, 8, 12 \(0 is the beginning\)"),
        (8, {"skip_steps": "11:99"}, "the run has not taken step 99"),
        (8, {"skip_steps": "12:11"}, "give the first step, from 1 on, and the last"),
        (8, {"skip_steps": "11-12"}, "give A:B, such as 120:124"),
        (8, {"skip_samples": "80:0"}, "the count is 0"),
        (8, {"skip_samples": "80:1", "skip_steps": "1:2"}, "not both"),
        (8, {"skip_steps": "8:9"}, "was trained on samples 0 to 63, and those to skip .* 56;"),
    ],
)
def test_an_impossible_rewind_is_refused_and_changes_nothing(
    run: RunConfig, to: int, options: dict[str, str], message: str
) -> None:
    before = _checkpoints(run)
    with pytest.raises(RewindError, match=message):
        rewind_run(run.run_dir, to=to, **options)
    assert _checkpoints(run) == before
    assert not (run.run_dir / "skip.yaml").exists()


def test_a_run_that_is_being_trained_is_not_rewound(run: RunConfig) -> None:
    with run_lock(run.run_dir), pytest.raises(RunBusyError, match="is training this run"):
        rewind_run(run.run_dir, to=8)


def test_a_folder_that_is_not_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RewindError, match="not a run folder"):
        rewind_run(tmp_path, to=0)
    assert not list(tmp_path.iterdir())


def test_a_damaged_skip_file_is_named(run: RunConfig) -> None:
    (run.run_dir / "skip.yaml").write_text("data: 5")
    with pytest.raises(ConfigError, match=r"skip\.yaml: not as `bigtrain rewind` writes it"):
        check_run(with_skips(run))
