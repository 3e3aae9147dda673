"""A profile records the configured steps, and summarizes where their time went."""

import gzip
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config.sections import ProfileConfig
from tests.ranks import run_ranks


def steps_of_a_rank(run_dir: Path, config: ProfileConfig, *, steps: int) -> list[str]:
    """Takes steps of a few products and one all-reduce; returns the names of the profile files."""
    import torch
    import torch.distributed as dist

    from bigtrain.environment import read_ranks
    from bigtrain.train.meter import RANGE_PREFIX
    from bigtrain.train.profile import ProfileWindow

    ranks = read_ranks()
    dist.init_process_group("gloo", rank=ranks.rank, world_size=ranks.world_size)
    window = ProfileWindow(config, run_dir=run_dir, rank=ranks.rank)
    values = torch.ones(200, 200)
    for number in range(1, steps + 1):
        with window.step(number):
            with torch.profiler.record_function(f"{RANGE_PREFIX}optimizer"):
                values = (values @ values).softmax(0)
            dist.all_reduce(values)
    window.close()
    dist.barrier()
    dist.destroy_process_group()
    return sorted(path.name for path in run_dir.rglob("*") if path.is_file())


def _window(tmp_path: Path, **values: Any) -> Any:
    from bigtrain.train.profile import ProfileWindow

    return ProfileWindow(ProfileConfig.model_validate(values), run_dir=tmp_path, rank=0)


def test_the_window_is_recorded_on_the_configured_ranks(tmp_path: Path) -> None:
    config = ProfileConfig(at_step=2, num_steps=2, ranks=(1,))
    listed = run_ranks(steps_of_a_rank, 2, tmp_path, config, steps=5)
    assert listed[0] == listed[1] == ["step-2-rank-1.json.gz", "step-2-rank-1.txt"]
    trace = json.loads(gzip.decompress((tmp_path / "profiles/step-2-rank-1.json.gz").read_bytes()))
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert {"step 2", "step 3", "aten::mm"} <= names
    assert not {"step 1", "step 4"} & names


def test_the_summary_gives_the_shares_of_communication_and_phases(tmp_path: Path) -> None:
    config = ProfileConfig(at_step=1, num_steps=3)
    run_ranks(steps_of_a_rank, 2, tmp_path, config, steps=3)
    first, _, *table = (tmp_path / "profiles/step-1-rank-0.txt").read_text().splitlines()
    assert first.startswith("3 steps, ")
    shares = {name: float(share) for name, share in re.findall(r"(\w+) ([\d.]+)%", first)}
    assert shares.keys() == {"optimizer", "communication"}
    assert all(0 < share < 100 for share in shares.values())
    assert any("gloo:all_reduce" in line for line in table)


def test_without_at_step_nothing_is_recorded(tmp_path: Path) -> None:
    window = _window(tmp_path)
    for number in range(1, 5):
        with window.step(number):
            pass
    window.close()
    assert not list(tmp_path.iterdir())


def test_a_run_that_ends_inside_the_window_writes_the_recorded_steps(tmp_path: Path) -> None:
    window = _window(tmp_path, at_step=3, num_steps=10)
    for number in (4, 5):  # The run also resumed inside the window.
        with window.step(number):
            pass
    window.close()
    window.close()
    names = sorted(path.name for path in (tmp_path / "profiles").iterdir())
    assert names == ["step-4-rank-0.json.gz", "step-4-rank-0.txt"]


def test_a_profiler_that_cannot_start_is_a_warning_and_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from bigtrain.train import profile

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("busy")

    monkeypatch.setattr(profile, "profile", refuse)
    window, taken = _window(tmp_path, at_step=1, num_steps=2), []
    for number in (1, 2, 3):
        with window.step(number):
            taken.append(number)
    assert taken == [1, 2, 3]
    assert "busy" in caplog.text


def test_a_profile_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "profiles").write_text("a file stands where the folder should")
    window = _window(tmp_path, at_step=1, num_steps=1)
    with caplog.at_level(logging.WARNING), window.step(1):
        pass
    assert "the profile was not written" in caplog.text


def test_time_in_overlapping_spans_counts_once() -> None:
    from bigtrain.train.profile import _covered_time

    assert _covered_time([(0, 4), (10, 11), (2, 6), (3, 5)]) == 7
