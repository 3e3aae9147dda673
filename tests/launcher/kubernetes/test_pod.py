"""A pod's exit code tells the Job whether the run is finished, stopped or failed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bigtrain.config import ConfigError, RunConfig, render_config
from bigtrain.track.json_lines import read_lines
from launcher.kubernetes import pod as pod_module
from launcher.kubernetes.exit_codes import STOPPED
from launcher.kubernetes.pod import run_ranks, wait_for_address
from launcher.ports import find_free_port
from tests.runs import tiny_config

REPOSITORY = Path(__file__).parents[3]


def _ranks(code: str) -> list[str]:
    return [sys.executable, "-c", f"import time; from pathlib import Path\n{code}"]


def _write_status(state: str) -> str:
    return f"""Path('status.json').write_text('{{"state": "{state}", "time": "new"}}')"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (_write_status("finished"), 0),
        (_write_status("stopped"), STOPPED),
        (f"{_write_status('finished')}; raise SystemExit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", 137),
    ],
    ids=["finished", "stopped", "failed", "killed"],
)
def test_the_exit_code_says_how_the_run_ended(
    code: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_ranks(_ranks(code), tmp_path) == expected


def test_the_status_of_an_earlier_attempt_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_module, "STATUS_SECONDS", 30.0)
    (tmp_path / "status.json").write_text('{"state": "stopped", "time": "old"}')
    # Rank 0 is on another node, and writes the final status a little later.
    late = subprocess.Popen(_ranks(f"time.sleep(1)\n{_write_status('finished')}"), cwd=tmp_path)
    try:
        assert run_ranks(_ranks("pass"), tmp_path) == 0
    finally:
        late.wait(30)


def test_sigterm_asks_the_run_to_stop_by_its_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from launcher.kubernetes.pod import run_ranks\n"
        "sys.exit(run_ranks([sys.executable, '-c', sys.argv[1]], Path.cwd()))"
    )
    ranks = (
        "import time; from pathlib import Path\nPath('began').touch()\n"
        f"while not Path('STOP').exists(): time.sleep(0.02)\n{_write_status('stopped')}"
    )
    pod = subprocess.Popen(
        [sys.executable, "-c", code, ranks],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    try:
        _wait_for(tmp_path / "began")
        pod.send_signal(signal.SIGTERM)
        assert pod.wait(60) == STOPPED
    finally:
        pod.kill()
        (tmp_path / "STOP").touch()  # Ends the ranks if the pod did not.


def test_a_name_that_stays_unknown_is_reported_with_what_to_check() -> None:
    wait_for_address("localhost")
    with pytest.raises(ConfigError, match=r"no-such-pod\.invalid of the first pod is not known"):
        wait_for_address("no-such-pod.invalid", seconds=0.0)


@pytest.mark.slow
def test_two_pods_stop_together_on_sigterm_and_resume(corpus: Path, tmp_path: Path) -> None:
    def config_of(steps: int) -> RunConfig:
        return tiny_config(corpus, tmp_path, train={"steps": steps})

    file, checkpoints = tmp_path / "run.yaml", config_of(100_000).run_dir / "checkpoints"
    file.write_text(render_config(config_of(100_000)))
    first = _start_pods(file)
    try:
        _wait_for(checkpoints / "step-00000010" / "COMMIT.json")
        first[1].send_signal(signal.SIGTERM)
        assert [pod.wait(120) for pod in first] == [STOPPED, STOPPED]
    finally:
        _kill(first)
    newest = max(int(each.name.removeprefix("step-")) for each in checkpoints.glob("step-*"))
    file.write_text(render_config(config_of(newest + 5)))
    second = _start_pods(file, "--accept-change=train.steps")
    try:
        assert [pod.wait(120) for pod in second] == [0, 0]
    finally:
        _kill(second)
    starts = [
        event["step"]
        for event in read_lines(config_of(100_000).run_dir / "attempts.jsonl")
        if event["event"] == "start"
    ]
    assert starts == [0, newest]


def _start_pods(file: Path, *more: str) -> list[subprocess.Popen[bytes]]:
    port = find_free_port()
    return [_start_pod(file, rank, port, *more) for rank in (0, 1)]


def _kill(pods: list[subprocess.Popen[bytes]]) -> None:
    for pod in pods:
        pod.kill()
        pod.wait()


def _start_pod(file: Path, rank: int, port: int, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "launcher.kubernetes.pod", str(file), "--nodes=2"),
            *(f"--node-rank={rank}", "--processes=1", "--master-addr=127.0.0.1"),
            f"--master-port={port}",
            *more,
        ],
        cwd=file.parent,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
