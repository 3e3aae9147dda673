"""A real SLURM on this machine for the tests: slurmctld, several slurmd, and a munged of its own.

All files are in one temporary folder, all ports are free ones, and every process is a descendant of
``keeper.py``, which kills them when the tests end, even if pytest is killed.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher.ports import find_free_port
from tests.slurm import keeper
from tests.slurm.configuration import ClusterOptions, Ports, node_names, render_configuration
from tests.slurm.processes import (
    SYSTEM_FOLDERS,
    command_of,
    environment_of,
    find_program,
    name_of,
    open_files_of,
    parent_of,
    processes_of,
    wait_until,
    with_children,
)

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo")
ALIVE = ("PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "STOPPED", "REQUEUED")


def why_no_cluster() -> str | None:
    """Why no SLURM can run on this machine, in one line; None if it can."""
    missing = [name for name in DAEMONS if find_program(name) is None]
    if missing:
        return f"no SLURM on this machine: {', '.join(missing)} not found; .ci/run installs them"
    if os.geteuid() != 0:
        return "SLURM's daemons need root: run the tests as root"
    return None


@dataclass(frozen=True, slots=True)
class Job:
    """One line of squeue."""

    id: str
    state: str
    reason: str
    nodes: str
    name: str


class SlurmCluster:
    """A cluster of several nodes on this machine.

    Use it as a context manager, or call `start` and `stop`.
    """

    def __init__(self, options: ClusterOptions | None = None) -> None:
        self.options = options or ClusterOptions()
        self.nodes = node_names(self.options)
        # Short: the path of a unix socket has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="bt-slurm-", dir="/tmp"))
        self.folder.chmod(0o755)
        self._keeper: subprocess.Popen[str] | None = None
        self._daemons: dict[str, int] = {}

    @property
    def configuration(self) -> Path:
        """The cluster's slurm.conf."""
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that uses the cluster, without variables of another job."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        path = os.pathsep.join([*own.get("PATH", "").split(os.pathsep), *SYSTEM_FOLDERS])
        return {**own, "PATH": path, "SLURM_CONF": str(self.configuration)}

    def __enter__(self) -> "SlurmCluster":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts all daemons and waits until every node is idle."""
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self._write_files()
            self._start_munged()
            self.start_controller(clean=True)
            for name in self.nodes:
                self._start_node(name)
            self.wait_idle()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kills every process of the cluster and removes its folder."""
        if self._keeper is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        assert self._keeper.stdin is not None
        with suppress(BrokenPipeError):
            self._keeper.stdin.close()
        self._keeper.wait(timeout=keeper.KILL_SECONDS + 10)
        self._daemons.clear()

    def run(
        self, *command: str, timeout: float = 60, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command with the cluster's environment; its output is text.

        Raises:
            AssertionError: It failed, and ``check`` is set; the message holds what it printed.
        """
        done = subprocess.run(
            command,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def submit(self, script: str, *options: str, **variables: str) -> str:
        """Submits a batch script; returns the job's id."""
        done = subprocess.run(
            ["sbatch", "--parsable", *options],
            input=script,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def jobs(self) -> list[Job]:
        """All jobs that squeue lists, also those that ended less than `keep_seconds` ago."""
        listed = self.run("squeue", "-h", "-t", "all", "-r", "-o", "%i|%T|%r|%N|%j").stdout
        return [Job(*line.split("|", 4)) for line in listed.splitlines()]

    def alive_jobs(self) -> list[Job]:
        """The jobs that have not ended."""
        return [job for job in self.jobs() if job.state in ALIVE]

    def state(self, job: str) -> str:
        """A job's state, such as RUNNING; "" if SLURM does not know it."""
        return next((other.state for other in self.jobs() if other.id == job), "")

    def details(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says; {} if SLURM does not know the job."""
        done = self.run("scontrol", "--oneliner", "show", "job", job, check=False)
        words = (word.partition("=") for word in done.stdout.split())
        return {key: value for key, mark, value in words if mark}

    def wait_state(self, job: str, *states: str, timeout: float = 60) -> str:
        """Waits until a job is in one of ``states``; returns the state."""

        def arrived() -> bool:
            return self.state(job) in states

        wait_until(arrived, timeout, lambda: f"job {job} is {self.details(job)}, not {states}")
        return self.state(job)

    def start_now(self, job: str) -> None:
        """Removes the delay with which SLURM starts a requeued job."""
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def node_states(self) -> dict[str, str]:
        """The state of each node in sinfo's words, such as ``idle`` or ``down*``."""
        listed = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").stdout
        return dict(line.split(maxsplit=1) for line in listed.splitlines())

    def wait_idle(self, nodes: Iterable[str] | None = None, timeout: float = 30) -> None:
        """Waits until the nodes (all by default) are idle."""
        names = list(nodes or self.nodes)

        def idle() -> bool:
            with suppress(AssertionError, subprocess.TimeoutExpired):
                states = self.node_states()
                return all(states.get(name) == "idle" for name in names)
            return False

        wait_until(idle, timeout, self._describe)

    def kill_node(self, name: str) -> None:
        """Kills slurmd, its step daemons and all processes of the node's jobs, as a power loss."""
        # The daemons come first in the list: none of them reports the end of a task. SIGSTOP before
        # would be wrong: the kernel continues stopped processes whose parent is killed.
        wait_until(lambda: not self._signal_node(name, signal.SIGKILL), 10)
        self._daemons.pop(name, None)

    def freeze_node(self, name: str) -> None:
        """Stops all processes of a node: its connections stay open, but nothing answers."""
        self._signal_node(name, signal.SIGSTOP)

    def declare_down(self, name: str) -> None:
        """Tells SLURM that a node is lost, which it would notice by itself after its timeout."""
        self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=lost")

    def restart_node(self, name: str) -> None:
        """Starts a node again, after `kill_node` or `freeze_node`, and waits until it answers.

        If SLURM did not notice yet that it was lost, it still counts as part of its job.
        """
        if name in self._daemons:
            self.kill_node(name)
        self._start_node(name)
        self._resume([name], wanted={"idle", "allocated", "mixed"})

    def stop_controller(self) -> None:
        """Ends slurmctld, which saves what it knows. Jobs that run are not touched."""
        (controller,) = processes_of([self._daemons.pop("slurmctld")])
        processes = with_children(controller)  # It has a child that starts scripts.
        controller.terminate()
        _, alive = psutil.wait_procs(processes, timeout=20)
        assert not alive, f"slurmctld did not end: {self._log('slurmctld')}"

    def start_controller(self, *, clean: bool = False) -> None:
        """Starts slurmctld, by default with the jobs and nodes that it knew; waits for it."""
        command = ["slurmctld", "-D", "-i", *(["-c"] if clean else [])]
        self._daemons["slurmctld"] = self._start_daemon("slurmctld", command)

        def answers() -> bool:
            return self.run("scontrol", "ping", check=False).stdout.rstrip().endswith(" is UP")

        wait_until(answers, 20, lambda: self._log("slurmctld"))

    def reset(self, timeout: float = 30) -> None:
        """Ends all jobs, and starts all daemons that a test killed; waits until all is idle."""
        if "slurmctld" not in self._daemons:
            self.start_controller()
        self._cancel_all(timeout)
        dead = [name for name in self.nodes if not self._is_alive(name)]
        for name in dead:
            self.kill_node(name)
            self._start_node(name)
        self._resume(self.nodes, timeout)

    def node_processes(self, name: str) -> list[psutil.Process]:
        """slurmd of a node, its step daemons, and all processes of the node's jobs."""
        everything = self.processes()
        # A step daemon is not a child of slurmd, and overwrites its environment: the log tells.
        log = str(self.folder / f"slurmd-{name}.log")
        daemons = [process for process in everything if log in open_files_of(process)]
        tasks = [p for p in everything if environment_of(p).get("SLURMD_NODENAME") == name]
        below = [process for root in daemons + tasks for process in with_children(root)]
        # If srun is killed, this child of it ends the step on all nodes: it must not live longer.
        children = [p for p in below if name_of(p) == name_of(parent_of(p)) == "srun"]
        return list(dict.fromkeys([*daemons, *children, *below]))

    def processes(self) -> list[psutil.Process]:
        """All processes of the cluster: the daemons, and all processes of jobs."""
        if self._keeper is None or self._keeper.poll() is not None:
            return []
        return processes_of(keeper.descendants(self._keeper.pid))

    def leftovers(self) -> list[str]:
        """What is still there of the cluster: processes, also of clients, and its folder."""
        ours = str(self.configuration)
        users = [p for p in psutil.process_iter() if environment_of(p).get("SLURM_CONF") == ours]
        found = {p.pid: p for p in [*users, *self.processes()]}
        lines = [f"process {pid}: {' '.join(command_of(p))}" for pid, p in found.items()]
        return lines + ([f"folder {self.folder}"] if self.folder.exists() else [])

    def _write_files(self) -> None:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        (self.folder / "state").mkdir()
        for name in self.nodes:
            (self.folder / f"spool-{name}").mkdir()
        ports: list[int] = []
        while len(ports) <= len(self.nodes):
            port = find_free_port()
            ports += [port] if port not in ports else []
        self.configuration.write_text(
            render_configuration(
                self.options,
                folder=self.folder,
                ports=Ports(ports[0], tuple(ports[1:])),
                hostname=socket.gethostname().split(".")[0],
            )
        )

    def _start_munged(self) -> None:
        paths = {
            name: self.folder / f"munge.{name}" for name in ("key", "socket", "pid", "log", "seed")
        }
        flags = {"key": "key-file", "socket": "socket", "pid": "pid-file", "log": "log-file"}
        options = [f"--{flag}={paths[name]}" for name, flag in flags.items()]
        command = ["munged", "--foreground", f"--seed-file={paths['seed']}", *options]
        self._daemons["munged"] = self._start_daemon("munged", command)
        wait_until(paths["socket"].exists, 10, lambda: self._log("munged"))

    def _start_node(self, name: str) -> None:
        command = ["slurmd", "-D", "-N", name]
        self._daemons[name] = self._start_daemon(f"slurmd-{name}", command)

    def _start_daemon(self, log: str, command: list[str]) -> int:
        assert self._keeper and self._keeper.stdin and self._keeper.stdout
        program = find_program(command[0])
        assert program, f"{command[0]} is not installed"
        request = {
            "command": [program, *command[1:]],
            "environment": self.environment,
            "log": str(self.folder / f"{log}.out"),
        }
        self._keeper.stdin.write(json.dumps(request) + "\n")
        self._keeper.stdin.flush()
        return int(self._keeper.stdout.readline())

    def _signal_node(self, name: str, number: signal.Signals) -> int:
        """Sends a signal to all processes of a node; returns how many there were."""
        processes = self.node_processes(name)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return len(processes)

    def _is_alive(self, name: str) -> bool:
        """Whether a node's slurmd runs, and is not stopped."""
        with suppress(KeyError, psutil.NoSuchProcess):
            state = psutil.Process(self._daemons[name]).status()
            return state not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)
        return False

    def _cancel_all(self, timeout: float) -> None:
        def cancelled() -> bool:
            jobs = self.alive_jobs()
            if jobs:
                ids = [job.id for job in jobs]
                self.run("scancel", *ids, check=False)
                self.run("scancel", "--full", "--signal=KILL", *ids, check=False)
            return not jobs

        wait_until(cancelled, timeout, self._describe)

    def _resume(
        self, nodes: Iterable[str], timeout: float = 30, wanted: Collection[str] = ("idle",)
    ) -> None:
        """Makes nodes usable that SLURM drained or declared down; waits for one of the states."""
        names = list(nodes)

        def usable() -> bool:
            states = self.node_states()
            bad = [n for n in names if states[n].strip("*~#$@+").startswith(("dr", "down", "fail"))]
            if bad:
                self.run(
                    "scontrol", "update", f"NodeName={','.join(bad)}", "State=RESUME", check=False
                )
            return all(states[name] in wanted for name in names)

        wait_until(usable, timeout, self._describe)

    def _describe(self) -> str:
        return f"jobs {self.jobs()}, nodes {self.node_states()}\n{self._log('slurmctld')}"

    def _log(self, daemon: str) -> str:
        path = self.folder / f"{daemon}.out"
        return "\n".join(path.read_text().splitlines()[-30:]) if path.exists() else ""
