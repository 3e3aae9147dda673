"""The environment variables that the launcher sets for a rank."""

import subprocess
import sys
from pathlib import Path

import pytest

import launcher
from launcher.local import LocalLaunch, render_environment


def render(*, processes=2, threads=None, cores=8, base=None, log_dir=Path("/run/logs"), rank=1):
    job = LocalLaunch((sys.executable,), processes, log_dir, threads_per_process=threads)
    return render_environment(job, rank=rank, port=4321, cores=cores, base=base or {})


def test_a_rank_gets_its_numbers_the_master_address_and_its_error_file():
    assert render() == {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "4321",
        "BIGTRAIN_ERROR_FILE": "/run/logs/rank-1.error.json",
        "BIGTRAIN_STOP_SIGNAL_FILE": "/run/logs/stop-signal",
        "OMP_NUM_THREADS": "4",
    }


@pytest.mark.parametrize(
    ("processes", "cores", "threads"), [(2, 8, "4"), (3, 8, "2"), (16, 8, "1"), (1, 8, "8")]
)
def test_cores_are_divided_evenly_among_ranks(processes: int, cores: int, threads: str):
    assert render(processes=processes, cores=cores)["OMP_NUM_THREADS"] == threads


def test_the_job_may_set_the_number_of_threads():
    assert render(threads=3)["OMP_NUM_THREADS"] == "3"


def test_a_number_of_threads_set_by_the_user_is_kept():
    assert render(threads=3, base={"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"


def test_the_users_variables_are_kept_and_old_rank_variables_replaced():
    environment = render(base={"HOME": "/home/me", "RANK": "5", "MASTER_PORT": "1"})
    assert environment["HOME"] == "/home/me"
    assert (environment["RANK"], environment["MASTER_PORT"]) == ("1", "4321")


def test_the_error_file_is_found_from_any_working_folder():
    path = Path(render(log_dir=Path("logs"))["BIGTRAIN_ERROR_FILE"])
    assert path == Path.cwd() / "logs" / "rank-1.error.json"


def test_the_launcher_imports_no_heavy_package():
    code = (
        "import sys; before = set(sys.modules); import launcher.local; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(launcher.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    # Of bigtrain only names of files.
    assert set(run.stdout.split()) - sys.stdlib_module_names == {"launcher", "bigtrain"}
