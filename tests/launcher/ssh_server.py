"""An ssh server of the tests: a real sshd with keys of its own on a free port of this machine."""

import getpass
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from launcher.ports import find_free_port
from tests.slurm.processes import find_program

HOSTS = ("127.0.0.1", "127.0.0.2")
"""Two addresses of this machine, which the launcher takes for two hosts."""
CHROOT = Path("/run/sshd")
"""An empty folder that sshd needs if root starts it; made by the service, so it may be missing."""


@dataclass(frozen=True)
class SshServer:
    """A server that runs."""

    folder: Path  # its configuration, keys and log
    port: int
    process: psutil.Process

    @property
    def options(self) -> list[str]:
        """Words for ssh that lead to this server, and use nothing of the user's own."""
        known = self.folder / "known_hosts"
        values = ("BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={known}")
        return [
            *("-F", "none", "-p", str(self.port), "-i", str(self.folder / "user_key")),
            *(word for value in values for word in ("-o", value)),
        ]

    def log(self) -> str:
        """What the server wrote."""
        return (self.folder / "log").read_text()


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Starts a server, and ends it after the block; skips the test where there can be none."""
    programs = {name: find_program(name) for name in ("sshd", "ssh", "ssh-keygen")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"{', '.join(missing)} not installed (Debian: openssh-server)")
    port = find_free_port()
    _write_files(folder, port)
    with _chroot_folder():
        process = subprocess.Popen(  # sshd wants to be called by its full path.
            [
                str(programs["sshd"]),
                "-D",
                "-f",
                str(folder / "sshd_config"),
                "-E",
                str(folder / "log"),
            ]
        )
        try:
            server = SshServer(folder, port, psutil.Process(process.pid))
            _wait_until_it_answers(process, server)
            yield server
        finally:
            process.terminate()
            process.wait()


def _write_files(folder: Path, port: int) -> None:
    for name in ("host_key", "user_key"):
        words = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        subprocess.run(words, check=True)
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text("".join(f"[{host}]:{port} {host_key}" for host in HOSTS))
    lines = [
        *(f"ListenAddress {host}:{port}" for host in HOSTS),
        f"HostKey {folder / 'host_key'}",
        f"AuthorizedKeysFile {folder / 'user_key.pub'}",
        f"PidFile {folder / 'pid'}",
        "AuthenticationMethods publickey",
        "PermitRootLogin prohibit-password",
        "StrictModes no",  # The folder for temporary files is not the user's own.
        "UsePAM no",
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")


@contextmanager
def _chroot_folder() -> Iterator[None]:
    if os.geteuid() != 0 or CHROOT.exists():
        yield
        return
    CHROOT.mkdir(mode=0o755)
    try:
        yield
    finally:
        CHROOT.rmdir()


def _wait_until_it_answers(process: "subprocess.Popen[bytes]", server: SshServer) -> None:
    deadline = time.monotonic() + 20
    while not _listens(server.port):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.skip(f"{getpass.getuser()} cannot start sshd: {server.log()}")
        time.sleep(0.02)
    done = subprocess.run(
        ["ssh", *server.options, HOSTS[0], "true"], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        pytest.skip(f"{getpass.getuser()} cannot log in with a key: {done.stderr} {server.log()}")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOSTS[-1], port)) == 0
