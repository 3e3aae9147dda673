"""SLURM's commands as shell scripts that answer what a real SLURM 22.05 answered, and log calls."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

# Captured with squeue of SLURM 22.05.8; the fields are those of `launcher.slurm.client`.
RUNNING = (
    "6|RUNNING|None|big one|root|main|2|n[1-2]|0:02|1:00:00|59:58|2026-11-29T10:23:17|"
    "2026-11-29T10:23:16|/shared/runs/tiny/job.sh"
)
RESOURCES = (
    "7|PENDING|Resources|job.sh|root|main|2||0:00|2:00:00|2:00:00|N/A|2026-11-29T10:23:16|"
    "/shared/runs/tiny/job.sh"
)
HELD = (
    "8|PENDING|JobHeldUser|job.sh|root|main|2||0:00|2-00:00:00|2-00:00:00|N/A|"
    "2026-11-29T10:23:16|/shared/runs/tiny/job.sh"
)
DEPENDENCY = (
    "9|PENDING|Dependency|job.sh|root|main|2||0:00|2-00:00:00|2-00:00:00|N/A|"
    "2026-11-29T10:23:16|/shared/runs/tiny/job.sh"
)
BEGIN_TIME = (
    "6|PENDING|BeginTime|big one|root|main|2||0:00|1:00:00|1:00:00|2026-11-29T10:25:20|"
    "2020-11-29T10:23:19|/shared/runs/tiny/job.sh"
)
REQUEUED_HELD = (
    "6|PENDING|job requeued in held state|big one|root|main|2||0:00|1:00:00|1:00:00|"
    "2026-11-29T10:25:20|2026-11-29T10:23:19|/shared/runs/tiny/job.sh"
)
CANCELLED = (
    "6|CANCELLED|None|big one|root|main|2|n[1-2]|0:00|2-00:00:00|2-00:00:00|"
    "2026-11-29T10:23:19|2026-11-29T10:23:16|/shared/runs/tiny/job.sh"
)
UNKNOWN = "slurm_load_jobs error: Invalid job id specified"
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"

# The separator of the fields is the text between the first two of --format.
_SQUEUE = """
for word in "$@"; do case "$word" in --format=*) format="${{word#--format=}}";; esac; done
separator=$(printf %s "$format" | cut -c3)
[ -s {queue} ] || {{ echo "{unknown}" >&2; exit 1; }}
tr '|' "$separator" < {queue}
"""

_SINFO = """
case "$*" in
    *--Node*) printf '%s\\n' n1 n2 n3 n4;;
    *) echo 'main*|up|infinite|4|2|8000|(null)|idle';;
esac
"""


class FakeSlurm:
    """A folder of SLURM's commands, first in PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._calls = folder, folder / "calls"
        self._queue, self._failure = folder / "queue", folder / "failure"
        squeue = _SQUEUE.format(queue=self._queue, unknown=UNKNOWN)
        bodies = {"squeue": squeue, "sbatch": "echo 77", "scancel": "", "scontrol": ""}
        bodies["sinfo"] = _SINFO
        for name, body in bodies.items():
            script = folder / name
            script.write_text(
                f'#!/bin/sh\necho "{name} $*" >> {self._calls}\n'
                f"if [ -f {self._failure} ]; then cat {self._failure} >&2; exit 1; fi\n{body}\n"
            )
            script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def answer(self, *jobs: str) -> None:
        """Sets the lines of squeue; none means that it knows no job."""
        self._queue.write_text("".join(f"{job}\n" for job in jobs))

    def fail(self, message: str) -> None:
        """Makes every command fail with this message."""
        self._failure.write_text(message)

    def calls(self, *names: str) -> Sequence[str]:
        """The calls of these commands, in order; by default of those that change something."""
        wanted = names or ("sbatch", "scancel", "scontrol")
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [line.replace("\x1f", "|") for line in lines if line.split()[0] in wanted]
