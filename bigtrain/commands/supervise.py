"""`bigtrain supervise`, which the batch script of a job runs: supervises the ranks of a run."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from bigtrain.config import RunConfig
    from bigtrain.runs.job_file import JobRecord
    from bigtrain.runs.supervised_run import SupervisedTraining
    from launcher.preflight.preflight import PreflightPlan
    from launcher.supervisor.interfaces import Preflight, Scheduler, Starter
    from launcher.supervisor.node_checks import NodeChecks


INTERRUPTED_CODE = 130
"""Exit code after Ctrl-C in the foreground, as that of a launch on this machine."""


def supervise(
    run: Annotated[Path, typer.Argument(help="The run folder, with its job.json.")],
) -> None:
    """Supervises a run on the nodes of this job, until the run or the job ends."""
    from bigtrain.runs.job_file import JobFileError, load_job
    from launcher.supervisor.file_retries import FileRetries

    run_dir = run.absolute()
    _set_up_logging()
    record = FileRetries().call(lambda: load_job(run_dir))
    if record is None:
        raise JobFileError(
            f"{run}: there is no job.json; start the run with `bigtrain launch RUN.yaml --cluster "
            "PROFILE`"
        )
    if record.scheduler == "hosts":
        raise typer.Exit(supervise_hosts(run_dir))
    raise typer.Exit(_supervise_slurm(run_dir, record))


def supervise_hosts(run_dir: Path) -> int:
    """Supervises a run on plain hosts, in the foreground.

    Args:
        run_dir: The run folder, an absolute path, with its job.json and config-job.yaml.

    Returns:
        The exit code.

    Raises:
        JobFileError: There is no job.json.
        ConfigError: The profile or the config cannot be used.
    """
    from bigtrain.runs.job_file import JobFileError, load_job
    from launcher.starters.ssh import SshStarter
    from launcher.supervisor.addresses import own_addresses
    from launcher.supervisor.hosts_job import HostsJob

    record = load_job(run_dir)
    if record is None:
        raise JobFileError(f"{run_dir}: there is no job.json")
    nodes = record.cluster.hosts[: record.nodes + record.spares]
    run = _open_run(run_dir, record)
    starter = SshStarter(
        cluster=record.cluster,
        nodes=nodes,
        python=_python(record),
        folder=Path.cwd(),
        addresses=lambda: own_addresses(record.cluster.network_interface),
    )
    return _supervise(record, run, HostsJob(nodes), starter)


def _supervise_slurm(run_dir: Path, record: "JobRecord") -> int:
    from bigtrain.config.run_files import SUPERVISOR_FILE
    from launcher.slurm.job import open_slurm_job, supervisor_addresses
    from launcher.slurm.submit import cancel_successors, submit_successor
    from launcher.starters.srun import SrunStarter

    job = open_slurm_job(
        restart=record.cluster.restart,
        runs_dir=run_dir.parent,
        run_name=run_dir.name,
        submit_successor=lambda job: submit_successor(run_dir, job),
        cancel_successors=lambda job: cancel_successors(run_dir, job),
    )
    _update_job(run_dir, lambda each: each.with_job(job.job_id).with_state("running"))
    run = _open_run(run_dir, record)
    starter = SrunStarter(
        cluster=record.cluster,
        nodes=job.nodes,
        python=_python(record),
        addresses=lambda: supervisor_addresses(record.cluster.network_interface),
        report=run_dir / SUPERVISOR_FILE,
    )
    return _supervise(record, run, job, starter)


def _supervise(
    record: "JobRecord", run: "SupervisedTraining", scheduler: "Scheduler", starter: "Starter"
) -> int:
    import asyncio

    from launcher.supervisor.file_retries import FileRetries
    from launcher.supervisor.job_settings import JobSettings
    from launcher.supervisor.supervisor import Supervisor

    _set_up_logging()
    config = FileRetries().call(run.load_config)
    settings = JobSettings(
        cluster=record.cluster,
        ranks_per_node=record.ranks_per_node,
        world_size=record.world_size,
        world_sizes=_world_sizes(config, record),
        rewinds=config.guard.rewind,
    )
    supervisor = Supervisor(settings, run, scheduler, starter, _preflight(config, record, run))
    try:
        code = asyncio.run(supervisor.supervise())
        is_ctrl_c = record.scheduler == "hosts" and code == 0 and supervisor.stopped_by == "SIGINT"
        return INTERRUPTED_CODE if is_ctrl_c else code
    finally:
        if not supervisor.continues_later:
            _update_job(run.folder, lambda each: each.with_state("ended"))


def _update_job(run_dir: Path, change: "Callable[[JobRecord], JobRecord]") -> None:
    """Changes job.json, which tells what runs, and on which nothing of the run depends."""
    from bigtrain.runs.job_file import JOB_FILE, update_job
    from launcher.supervisor.file_retries import FileRetries

    try:
        FileRetries(limit_seconds=10).call(lambda: update_job(run_dir, change))
    except OSError as error:
        logging.getLogger(__name__).error("%s was not written: %s", run_dir / JOB_FILE, error)


def _preflight(config: "RunConfig", record: "JobRecord", run: "SupervisedTraining") -> "Preflight":
    """The checks of the nodes; the supervisor leaves them out if the profile says so."""
    import asyncio

    from bigtrain.config.file_errors import is_bad_input
    from launcher.supervisor.interfaces import PreflightResult

    async def check(nodes: "NodeChecks") -> PreflightResult:
        from bigtrain.commands.preflight_plan import preflight_plan
        from launcher.preflight.preflight import run_preflight, summarize

        def plan() -> "PreflightPlan":
            return preflight_plan(
                config, record, run_dir=run.folder, log_dir=run.log_dir, python=_python(record)
            )

        try:
            verdict = await run_preflight(nodes, await asyncio.to_thread(plan))
        except ValueError as error:
            return PreflightResult(refusal=str(error))
        except OSError as error:
            if not is_bad_input(error):
                raise  # The file system may work again.
            return PreflightResult(refusal=str(error))
        return PreflightResult(
            verdict.bad, verdict.refusal, summarize(verdict, nodes=len(nodes.nodes))
        )

    return check


def _open_run(run_dir: Path, record: "JobRecord") -> "SupervisedTraining":
    from bigtrain.runs.supervised_run import SupervisedTraining

    return SupervisedTraining(
        run_dir,
        config_name=record.config,
        python=_python(record),
        accept_change=record.accept_change,
    )


def _python(record: "JobRecord") -> str:
    from launcher.slurm.srun import agent_python

    return agent_python(record.cluster, sys.executable)


def _world_sizes(config: "RunConfig", record: "JobRecord") -> tuple[int, ...]:
    from bigtrain.config.world_sizes import allowed_world_sizes

    return allowed_world_sizes(config, record.world_size)


def _set_up_logging() -> None:
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)-7s %(message)s", force=True
    )
    for name in ("launcher", "bigtrain"):
        logging.getLogger(name).setLevel(logging.INFO)
