"""Agents over ssh: the command is quoted, the token is not among the arguments, and all end."""

import asyncio
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import launcher
from bigtrain.config.cluster import ClusterConfig
from launcher.starters.ssh import SshStarter, render_remote_command, render_variables
from launcher.supervisor.agents import Agents
from tests.launcher.fake_ranks import is_alive, poll

REPOSITORY = Path(launcher.__file__).parents[1]
# Runs the command of the remote host here, as sshd does: through the shell, as one word.
FAKE_SSH = """#!/bin/bash
printf '%s\\n' "$@" >> {log}
echo $$ >> {pids}
exec bash -c "${{@: -1}}"
"""


def _cluster(**values) -> ClusterConfig:
    return ClusterConfig.model_validate({"scheduler": "hosts", "hosts": ["a", "b"], **values})


def test_the_remote_command_survives_two_shells(tmp_path: Path) -> None:
    folder = tmp_path / "my folder's"
    folder.mkdir()
    variables = {"SEEN": 'it\'s "x" & \\y ', "BIGTRAIN_JOB_TOKEN": "secret"}
    cluster = _cluster(environment=variables)
    python = tmp_path / "my python"
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$PWD" "$SEEN" "$BIGTRAIN_JOB_TOKEN" "$@"\n')
    python.chmod(0o755)
    command = render_remote_command(
        cluster, node="a", python=str(python), folder=folder, supervisors="10.0.0.1:4000"
    )
    done = subprocess.run(
        ["bash", "-c", command], input=render_variables(variables), capture_output=True, check=True
    )
    lines = done.stdout.decode().splitlines()
    assert lines[:3] == [str(folder), *variables.values()]
    assert lines[3:6] == ["-m", "launcher.agent", "--supervisor"]
    assert shlex.split(command)[:3] == ["exec", "bash", "-c"]
    assert "secret" not in command and "SEEN" not in command


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the arguments (log) and process ids (pids) of each call of ssh."""
    folder = tmp_path / "bin"
    folder.mkdir()
    ssh = folder / "ssh"
    ssh.write_text(FAKE_SSH.format(log=folder / "log", pids=folder / "pids"))
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def _pids(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "pids").read_text().split()]


def test_one_agent_starts_on_each_host_and_ends_with_its_ssh(fake_ssh: Path) -> None:
    problems: list[tuple[str, str]] = []

    async def run() -> None:
        agents = Agents(("a", "b"), 1, "secret-token", print)
        port = await agents.listen(["127.0.0.1"])
        starter = SshStarter(_cluster(), ("a", "b"), sys.executable, REPOSITORY, _loopback)
        await starter.start(
            port=port, token="secret-token", on_problem=lambda *each: problems.append(each)
        )
        while agents.ready() != ("a", "b"):
            await asyncio.sleep(0.02)
        os.kill(agents.of_node("a")[0].hello.pid, signal.SIGKILL)
        while not problems:
            await asyncio.sleep(0.02)
        await agents.close()
        await starter.close()

    asyncio.run(asyncio.wait_for(run(), 30))
    assert problems[0][0] == "a" and "ssh a ended" in problems[0][1]
    arguments = (fake_ssh / "log").read_text()
    assert arguments.startswith("-o\nBatchMode=yes\n") and "secret-token" not in arguments
    poll(lambda: not any(map(is_alive, _pids(fake_ssh))))


def test_ssh_lasts_until_the_ranks_have_saved(
    fake_ssh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.starters.ssh.END_SECONDS", 0.2)
    agent = tmp_path / "agent"
    saves = (
        f"import sys, time; sys.stdin.read(); time.sleep(1); open({str(tmp_path / 'saved')!r}, 'w')"
    )
    agent.write_text(f"#!/bin/bash\nexec {sys.executable} -c {shlex.quote(saves)}\n")
    agent.chmod(0o755)

    async def run() -> None:
        starter = SshStarter(_cluster(), ("a",), str(agent), tmp_path, _loopback)
        await starter.start(port=1, token="token", on_problem=lambda *_: None)
        await starter.close(lets_ranks_save=True)

    asyncio.run(asyncio.wait_for(run(), 30))
    assert (tmp_path / "saved").exists()
    assert not any(map(is_alive, _pids(fake_ssh)))


def test_the_agents_end_when_the_supervisor_is_killed(fake_ssh: Path) -> None:
    code = f"""
import asyncio, sys
from pathlib import Path
from bigtrain.config.cluster import ClusterConfig
from launcher.starters.ssh import SshStarter
from launcher.supervisor.agents import Agents

async def run():
    agents = Agents(("a",), 1, "token", print)
    port = await agents.listen(["127.0.0.1"])
    cluster = ClusterConfig.model_validate(dict(scheduler="hosts", hosts=["a"]))
    starter = SshStarter(
        cluster, ("a",), sys.executable, Path({str(REPOSITORY)!r}), lambda: ["127.0.0.1"]
    )
    await starter.start(port=port, token="token", on_problem=print)
    while not agents.ready():
        await asyncio.sleep(0.02)
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(run())
"""
    supervisor = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    with supervisor:
        assert supervisor.stdout.readline() == "ready\n"
        (agent,) = _pids(fake_ssh)
        assert is_alive(agent)
        supervisor.kill()
    poll(lambda: not is_alive(agent))


def _loopback() -> list[str]:
    return ["127.0.0.1"]
