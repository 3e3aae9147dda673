"""No failure or setting of wandb affects a run; the metrics are kept offline."""

import http.server
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bigtrain.config import RunConfig
from bigtrain.track import process_tracker, wandb_sink
from bigtrain.track.tracker import Trackers
from bigtrain.track.wandb_settings import is_reachable
from bigtrain.track.wandb_sink import open_wandb
from tests.runs import tiny_config
from tests.slurm.processes import wait_until

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def _home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Sets a home folder without wandb's files, and removes wandb's variables."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    caplog.set_level(logging.INFO)


def _track(folder: Path, mode: str = "auto", *, state: str = "finished") -> float:
    """Tracks two steps with wandb; returns the seconds that it took."""
    config: RunConfig = tiny_config(folder, folder, track={"wandb": mode})
    (config.run_dir / "logs").mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    sink = open_wandb(config, config.run_dir, "abcd1234")
    assert sink is not None
    trackers = Trackers([sink])
    for step in (1, 2):
        trackers.record("train", step, {"loss": 1.5, "grad_norm": float("nan")})
    trackers.finish(state)
    return time.monotonic() - began


def _offline_runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("tiny/wandb/offline-run-*-abcd1234/run-abcd1234.wandb"))


def _replace_wandb(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Replaces wandb by a module of ``code``, to simulate failures."""
    (folder / "stand-in" / "wandb").mkdir(parents=True)
    (folder / "stand-in" / "wandb" / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder / "stand-in"))


def test_without_a_key_every_step_is_kept_offline_and_the_log_says_how_to_upload_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _track(tmp_path)
    (run,) = _offline_runs(tmp_path)
    # On a busy machine the file had only its header here, once. The cause is not known.
    wait_until(lambda: b"train/loss" in run.read_bytes(), 30)
    (line,) = caplog.messages
    assert "because there is no API key" in line
    assert f"`bigtrain wandb sync {tmp_path / 'tiny'}` uploads it" in line
    assert caplog.records[0].levelno == logging.INFO


def test_online_without_a_network_every_step_is_kept_offline_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    _track(tmp_path, "online")
    assert len(_offline_runs(tmp_path)) == 1
    (line,) = caplog.messages
    assert "because http://127.0.0.1:9 does not answer" in line
    assert caplog.records[0].levelno == logging.WARNING


def _bad_netrc(home: Path) -> dict[str, str]:
    (home / ".netrc").write_bytes(b"machine mirror.example login me password caf\xe9\n")
    (home / ".netrc").chmod(0o600)
    return {}


def _bad_settings(home: Path) -> dict[str, str]:
    (home / ".config" / "wandb").mkdir(parents=True)
    (home / ".config" / "wandb" / "settings").write_bytes(b"\xff[[")
    return {}


@pytest.mark.parametrize(
    ("set_badly", "why"),
    [
        (_bad_netrc, ".netrc"),
        (_bad_settings, "a settings file"),
        (lambda _: {"WANDB_BASE_URL": "http://wandb.example:port"}, "base_url="),
        (lambda _: {"WANDB_MODE": "bogus"}, "mode='bogus'"),
    ],
    ids=["netrc", "settings", "url", "mode"],
)
def test_a_wrong_setting_of_wandb_is_reported_and_the_run_is_kept_offline(
    set_badly, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    for name, value in set_badly(tmp_path).items():
        monkeypatch.setenv(name, value)
    _track(tmp_path)
    assert len(_offline_runs(tmp_path)) == 1
    (line,) = caplog.messages
    assert why in line
    assert caplog.records[0].levelno == logging.WARNING


def test_a_file_in_place_of_its_folder_turns_wandb_off_with_a_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "wandb").touch()
    _track(tmp_path)
    (line,) = caplog.messages
    assert line.startswith("wandb is off for this attempt: ")
    assert str(tmp_path / "tiny" / "wandb") in line


_IS_OFF = "wandb is off for this attempt: "
_OPENS = """
import os, time, types
setup = lambda: types.SimpleNamespace(settings=types.SimpleNamespace(api_key=None,
    identity_token_file=None, base_url=os.environ.get("WANDB_BASE_URL")))
Settings = dict
class init:
    def __init__(self, *, dir, **_): self.dir = dir + "/files"; self.open()
    def open(self): pass
    def define_metric(self, *_, **__): pass
    def log(self, _): pass
    def finish(self, exit_code): pass
"""


@pytest.mark.parametrize(
    ("code", "limits", "line"),
    [
        (
            "import sys; sys.exit('not today')",
            {},
            f"{_IS_OFF}SystemExit: not today",
        ),
        (
            "import no_such_library",
            {},
            "wandb is off for this attempt: ModuleNotFoundError: No module",
        ),
        (
            "import os; os.abort()",
            {},
            f"{_IS_OFF}the process of wandb ended with code -6",
        ),
        (
            "import time; time.sleep(600)",
            {"IMPORT_SECONDS": 2.0},
            "wandb is off for this attempt: wandb did not answer",
        ),
        (
            f"{_OPENS}\n    def log(self, _): raise SystemExit('full')",
            {},
            "wandb stopped recording: SystemExit: full; metrics.jsonl has every step",
        ),
        (
            f"{_OPENS}\n    def finish(self, exit_code): time.sleep(600)",
            {"FINISH_SECONDS": 5.0},
            "wandb stopped recording: wandb did not finish within",
        ),
    ],
    ids=["exits", "cannot be imported", "crashes", "hangs", "log exits", "finish hangs"],
)
def test_a_failing_wandb_is_reported_once_and_awaited_for_a_limited_time(
    code: str,
    limits: dict[str, float],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _replace_wandb(tmp_path, monkeypatch, code)
    for name, seconds in limits.items():
        monkeypatch.setattr(process_tracker, name, seconds)
    assert _track(tmp_path, "offline") < 300  # The replacement sleeps for 600 s.
    (warning,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert warning.getMessage().startswith(line)


def test_a_wandb_that_blocks_on_records_is_turned_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _replace_wandb(tmp_path, monkeypatch, "import time; time.sleep(600)")
    monkeypatch.setattr(process_tracker, "MAX_QUEUED", 1)
    assert _track(tmp_path, "offline") < 300
    (line,) = caplog.messages
    assert line.startswith("wandb stopped recording: 1 records wait for wandb")


def test_after_a_failure_the_wait_for_wandb_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _replace_wandb(tmp_path, monkeypatch, "import time; time.sleep(600)")
    monkeypatch.setattr(process_tracker, "FAILED_FINISH_SECONDS", 0.5)
    assert _track(tmp_path, "offline", state="failed") < 300


def test_a_wandb_turned_off_while_opening_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = tmp_path / "tries"
    _replace_wandb(
        tmp_path,
        monkeypatch,
        "import time, types\n"
        "setup = lambda: types.SimpleNamespace(settings=None)\n"
        "Settings = lambda **_: None\n"
        f"def init(**_):\n    open({str(tries)!r}, 'a').write('once ')\n    time.sleep(600)\n",
    )
    monkeypatch.setattr(process_tracker, "FAILED_FINISH_SECONDS", 0.5)
    config = tiny_config(tmp_path, tmp_path, track={"wandb": "offline"})
    (config.run_dir / "logs").mkdir(parents=True)
    sink = open_wandb(config, config.run_dir, "abcd1234")
    deadline = time.monotonic() + 60
    while not tries.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(process_tracker.SinkError, match="did not finish within"):
        sink.finish("failed")
    for thread in threading.enumerate():
        if thread.name == "wandb":
            thread.join(10)
    assert tries.read_text() == "once "


@contextmanager
def _server(code: int) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("code", "reachable"), [(200, True), (401, True), (503, False)])
def test_a_server_is_reachable_unless_it_answers_with_a_server_error(
    code: int, reachable: bool
) -> None:
    with _server(code) as url:
        assert is_reachable(url) is reachable


def test_a_server_that_never_answers_is_unreachable_after_a_short_wait() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        began = time.monotonic()
        assert not is_reachable(f"http://127.0.0.1:{listener.getsockname()[1]}", seconds=0.3)
        assert time.monotonic() - began < 30


def test_wandb_stays_online_if_the_server_answers_but_opens_a_run_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _replace_wandb(tmp_path, monkeypatch, f"{_OPENS}\n    def open(self): time.sleep(4)")
    monkeypatch.setattr(wandb_sink, "CONNECT_SECONDS", 3.0)
    with _server(200) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        _track(tmp_path, "online")
    assert caplog.messages == ["wandb online, run id abcd1234"]


def test_without_a_network_a_run_is_offline_within_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _replace_wandb(tmp_path, monkeypatch, _OPENS)
    with socket.socket() as listener:  # The listener never answers.
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert _track(tmp_path, "online") < 10
    assert "does not answer" in caplog.text
