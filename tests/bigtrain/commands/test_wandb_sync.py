"""`bigtrain wandb sync` uploads the offline parts of a run, in order, once, and says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bigtrain.config import render_config
from bigtrain.runs.run_lock import run_lock
from bigtrain.track.tracker import Trackers
from bigtrain.track.wandb_sink import open_wandb
from tests.bigtrain.track.wandb_server import WandbServer
from tests.runs import tiny_config

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def _run_with_parts(folder: Path, count: int) -> Path:
    """A run folder with ``count`` parts of two steps each, recorded offline by wandb."""
    config = tiny_config(folder, folder, track={"wandb": "offline"})
    run = config.run_dir
    (run / "logs").mkdir(parents=True)
    (run / "config.yaml").write_text(render_config(config))
    (run / "wandb_id").write_text("abcd1234\n")
    for part in range(count):
        trackers = Trackers([open_wandb(config, run, "abcd1234")])
        for step in (2 * part + 1, 2 * part + 2):
            trackers.record("train", step, {"loss": float(step)})
        trackers.finish("stopped")
        # The names of the folders have seconds; two parts of one second would be one.
        (new,) = run.glob("wandb/offline-run-2*-abcd1234")
        new.rename(new.with_name(f"offline-run-19991231_23595{part}-abcd1234").with_suffix(".new"))
    for new in run.glob("wandb/*.new"):
        new.rename(new.with_suffix(""))
    return run


def _sync(run: Path, **variables: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", "wandb", "sync", str(run)],
        env={**os.environ, **variables},
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout.splitlines()


def test_parts_are_uploaded_in_order_as_one_run_and_only_once(tmp_path: Path) -> None:
    run = _run_with_parts(tmp_path, 2)
    first, second = (f"offline-run-19991231_23595{part}-abcd1234" for part in (0, 1))
    with WandbServer() as server:
        where = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        assert _sync(run, **where) == (
            0,
            [
                f"uploaded {first} (1 of 2)",
                f"uploaded {second} (2 of 2)",
                f"{run} is in wandb as run abcd1234",
            ],
        )
        losses = [(line["step"], line["train/loss"]) for line in server.history]
        assert losses == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
        assert set(server.run_ids) == {"abcd1234"}
        assert _sync(run, **where) == (0, ["2 of 2 were uploaded before"])
        assert len(server.history) == 4


def test_the_part_that_is_being_recorded_is_left_for_later(tmp_path: Path) -> None:
    run = _run_with_parts(tmp_path, 1)
    with run_lock(run):
        code, (line,) = _sync(run, WANDB_API_KEY=KEY, WANDB_BASE_URL="http://127.0.0.1:9")
    assert (code, line) == (
        0,
        "the run is training: offline-run-19991231_235950-abcd1234 is left for later",
    )


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    run = _run_with_parts(tmp_path, 1)
    code, (line,) = _sync(run, WANDB_BASE_URL="http://127.0.0.1:9")
    assert (code, "there is no API key: set WANDB_API_KEY" in line) == (2, True)
    code, (line,) = _sync(run, WANDB_API_KEY=KEY, WANDB_BASE_URL="http://127.0.0.1:9")
    assert (code, "http://127.0.0.1:9 does not answer" in line) == (2, True)
    code, (line,) = _sync(run, WANDB_API_KEY=KEY, WANDB_BASE_URL="nonsense")
    assert (code, "wandb cannot be used" in line) == (2, True)
    code, (line,) = _sync(tmp_path / "none")
    assert (code, "not a run folder" in line) == (2, True)
    (run / "wandb_id").unlink()
    code, (line,) = _sync(run)
    assert (code, "no file wandb_id" in line) == (2, True)


def test_a_refusal_of_the_server_is_shown_and_nothing_is_marked_as_uploaded(
    tmp_path: Path,
) -> None:
    run = _run_with_parts(tmp_path, 1)
    with WandbServer() as server:
        server.refuses = True
        code, (line,) = _sync(run, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    assert code == 1
    assert "was not uploaded: Failed to get resume status" in line
    assert "permission denied" in line
    assert not list(run.glob("wandb/*/*.synced"))


def test_a_run_without_offline_parts_has_nothing_to_upload(tmp_path: Path) -> None:
    run = _run_with_parts(tmp_path, 0)
    assert _sync(run) == (
        0,
        [f"{run}: wandb recorded nothing offline; there is nothing to upload"],
    )
