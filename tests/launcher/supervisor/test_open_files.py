"""The supervisor may open as many files as it has agents."""

import subprocess
import sys
from pathlib import Path

import launcher

CODE = """
import logging, resource, sys
from launcher.supervisor.open_files import raise_open_files
logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1000))
raise_open_files(int(sys.argv[1]))
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def _raise(connections: int) -> tuple[str, str]:
    """The limits afterwards, and what was logged."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(connections)],
        cwd=Path(launcher.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr


def test_the_limit_of_open_files_is_raised_as_far_as_needed() -> None:
    assert _raise(700) == ("(956, 1000)", "")


def test_a_limit_that_is_too_low_for_all_agents_is_reported_in_one_line() -> None:
    limits, log = _raise(4000)
    assert limits == "(1000, 1000)"
    assert log.count("\n") == 1 and "is 1000 (ulimit -Hn), and 4256 are needed" in log
