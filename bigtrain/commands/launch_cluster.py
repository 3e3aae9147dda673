"""Submits a run to a cluster, after it has checked everything."""

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import typer

from bigtrain.commands.import_for_run import with_imported_weights
from bigtrain.commands.queued_jobs import check_no_job
from bigtrain.config import ConfigError, RunConfig, load_config, render_config
from bigtrain.config.cluster import ClusterConfig
from bigtrain.config.config_files import is_override
from bigtrain.config.device_rules import device_of_nodes, find_device_problems
from bigtrain.config.node_counts import check_node_count, fits_nodes
from bigtrain.config.run_files import JOB_SCRIPT
from bigtrain.config.secret_variables import render_secrets_warning
from bigtrain.runs.job_file import (
    JOB_CONFIG,
    JOB_FILE,
    JobRecord,
    render_job,
    update_job,
)
from bigtrain.runs.node_check_arguments import DATA_FILES, render_data_files
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.run_request import remove_requests
from bigtrain.runs.submission import SubmissionFiles, submission_files, submission_lock
from launcher.excluded_nodes import ExcludedNode, load_excluded
from launcher.slurm.script import render_batch_script


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClusterRun:
    """A run and the cluster that it is launched on, checked."""

    config: RunConfig
    cluster: ClusterConfig
    nodes: int
    accept_change: tuple[str, ...]
    profile: tuple[str, ...]
    """Files and overrides of the profile."""
    excluded: tuple[ExcludedNode, ...]

    @property
    def run_dir(self) -> Path:
        return Path(os.path.abspath(self.config.run_dir))  # noqa: PTH100 - links stay

    @property
    def script(self) -> str:
        return render_batch_script(
            self.cluster,
            name=self.config.name,
            run_dir=self.run_dir,
            nodes=self.nodes,
            python=sys.executable,
            work_dir=Path.cwd(),
            excluded=[each.node for each in self.excluded],
        )

    @property
    def record(self) -> JobRecord:
        return JobRecord(
            scheduler=self.cluster.scheduler,
            jobs=(),
            submitted=datetime.now(UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            nodes=self.nodes,
            spares=self.cluster.spares,
            ranks_per_node=self.cluster.num_ranks_per_node,
            cluster=self.cluster,
            accept_change=self.accept_change,
            profile=tuple(_render_profile(self.profile)),
            earlier_events=RunFolder(self.run_dir).count_events(),
        )


def launch_on_cluster(
    sources: Sequence[str],
    profile: Sequence[str],
    *,
    nodes: int | None,
    dry_run: bool,
    check: bool,
    accept_change: Sequence[str],
) -> None:
    """Submits a run, or only prints its batch script.

    Args:
        sources: Files and overrides of the run.
        profile: Files and overrides of the cluster's profile.
        nodes: Nodes that get ranks; by default all hosts of a profile that lists hosts.
        dry_run: Whether only to print the script.
        check: Whether to ask SLURM about the script, and print its answer.
        accept_change: Keys that may differ from the checkpoint's.

    Raises:
        ConfigError: The run or the profile is not valid, or they do not fit together.
        SlurmError: SLURM refuses the job, or does not answer. Nothing was submitted or written.
    """
    run = _resolve(sources, profile, nodes=nodes, accept_change=accept_change)
    for each in run.excluded:
        typer.echo(f"avoiding node {each}", err=True)
    if (warning := render_secrets_warning(run.cluster)) is not None:
        _warn([warning])
    if run.cluster.scheduler == "hosts":
        if check:
            raise ConfigError("--check asks SLURM; with scheduler: hosts, give --dry-run")
        if not dry_run:
            run = _with_imported_weights(run)
        _launch_on_hosts(run, dry_run=dry_run)
        return
    if dry_run:
        typer.echo(run.script, nl=False)
        if check:
            _ask_slurm(run)
        return
    warnings = _check_partition(run)
    _warn(warnings)
    _check_request(run, nodes_are_missing=bool(warnings))
    job = _submit(_with_imported_weights(run))
    spares = f", and {run.cluster.spares} spare" if run.cluster.spares else ""
    typer.echo(
        f"submitted run {run.config.name} as job {job}: {run.nodes} nodes × "
        f"{run.cluster.num_ranks_per_node} ranks{spares}"
    )
    _show_next_commands(run)


def _with_imported_weights(run: _ClusterRun) -> _ClusterRun:
    """Imports a Hugging Face folder that the run loads, once nothing refuses the run any more."""
    return replace(run, config=with_imported_weights(run.config, accepted=run.accept_change))


def _resolve(
    sources: Sequence[str],
    profile: Sequence[str],
    *,
    nodes: int | None,
    accept_change: Sequence[str],
) -> _ClusterRun:
    from bigtrain.engine.deepspeed_version import check_deepspeed_version
    from bigtrain.runs.resolve_run import resolve_run
    from bigtrain.runs.resume_checks import check_run

    cluster = load_config(profile, ClusterConfig)
    config = resolve_run(sources)
    count = _count_nodes(cluster, nodes)
    check_node_count(config, count, ranks_per_node=cluster.num_ranks_per_node)
    _check_device(config, cluster)
    if cluster.container is None:  # Its versions are those of the image.
        check_deepspeed_version(config)
    run = _ClusterRun(
        config=config,
        cluster=cluster,
        nodes=count,
        accept_change=tuple(accept_change),
        profile=tuple(profile),
        excluded=tuple(load_excluded(Path(config.runs_dir))),
    )
    _check_folders(run)
    check_run(config, accepted=accept_change)
    return run


def _count_nodes(cluster: ClusterConfig, nodes: int | None) -> int:
    if cluster.scheduler == "hosts":
        most = len(cluster.hosts) - cluster.spares
        if nodes is not None and nodes > most:
            spares = f" and {cluster.spares} spare" if cluster.spares else ""
            raise ConfigError(
                f"--nodes {nodes}{spares}: the cluster profile lists {len(cluster.hosts)} hosts; "
                f"use --nodes {most}, or add hosts"
            )
        return nodes or most
    if nodes is None:
        raise ConfigError("--cluster needs --nodes N: the number of nodes that get ranks")
    return nodes


def _check_device(config: RunConfig, cluster: ClusterConfig) -> None:
    """Checks what the nodes can compute; the devices of this machine do not matter."""
    device = device_of_nodes(config, gpus_per_node=cluster.gpus_per_node)
    if problems := find_device_problems(config, device):
        raise ConfigError("; ".join(problems))


def _check_folders(run: _ClusterRun) -> None:
    folder = run.run_dir
    if "\\" in str(folder):
        raise ConfigError(f"{folder}: sbatch takes no path with a backslash; set another runs_dir")
    present = next(place for place in (folder, *folder.parents) if place.exists())
    if present.is_dir() and not os.access(present, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{folder}: no permission to write in {present}; set runs_dir to a folder of yours"
        )
    if (shared := run.cluster.shared_folder) is not None:
        places = {"runs_dir": run.config.runs_dir, "checkpoint.dir": run.config.checkpoint.dir}
        for key, place in places.items():
            if place is not None and "://" not in place:
                _check_shared(key, place, shared)
    _check_mounted(run)


def _check_shared(key: str, place: str, shared: str) -> None:
    if not Path(shared).is_dir():
        raise ConfigError(
            f"shared_folder={shared}: there is no such folder on this machine; correct the cluster "
            "profile, or run this on a login node that mounts it"
        )
    if not Path(place).resolve().is_relative_to(Path(shared).resolve()):
        raise ConfigError(
            f"{key}={place} is not inside shared_folder={shared} of the cluster profile, so other "
            f"nodes cannot see it; set {key} to a folder in it"
        )


def _check_mounted(run: _ClusterRun) -> None:
    """The ranks find the run folder inside the container at the path that it has outside."""
    if run.cluster.container is None:
        return
    mounts = [mount.split(":") for mount in run.cluster.container_mounts]
    same = [Path(mount[0]) for mount in mounts if mount[0] == mount[1]]
    if not any(run.run_dir.is_relative_to(folder) for folder in same):
        raise ConfigError(
            f"container.mounts: the run folder {run.run_dir} is in none of them; add "
            f"{run.run_dir.parent}, or set shared_folder"
        )


def _check_partition(run: _ClusterRun) -> list[str]:
    from launcher.slurm.partitions import check_partition

    ranks = run.cluster.num_ranks_per_node
    return check_partition(
        run.cluster,
        run.nodes,
        fits=lambda nodes: fits_nodes(run.config, nodes, ranks_per_node=ranks),
        excluded=[each.node for each in run.excluded],
    )


def _check_request(run: _ClusterRun, *, nodes_are_missing: bool) -> None:
    """Asks SLURM whether any nodes offer what the script asks for.

    sbatch itself accepts a job for more cores or memory than any node has, and lets it wait
    forever.
    While nodes are down SLURM refuses jobs that could run later, so it is not asked then.
    """
    from launcher.slurm.client import check_submission

    if not nodes_are_missing:
        check_submission(run.script)


def _ask_slurm(run: _ClusterRun) -> None:
    from launcher.slurm.client import check_submission

    _warn(_check_partition(run))
    check_no_job(run.run_dir)
    typer.echo(check_submission(run.script), err=True)


def _submit(run: _ClusterRun) -> str:
    """Submits the run; after a failure, its files are as they were before."""
    with submission_lock(run.run_dir):
        check_no_job(run.run_dir)
        remove_requests(run.run_dir)
        files = {
            JOB_CONFIG: render_config(run.config),
            DATA_FILES: render_data_files(run.config),
            JOB_SCRIPT: run.script,
            JOB_FILE: render_job(run.record),
        }
        with submission_files(run.run_dir, files, folders=("logs",)) as written:
            return _submit_script(run.run_dir, written)


def _submit_script(run_dir: Path, files: SubmissionFiles) -> str:
    from launcher.slurm.client import SlurmTimeoutError, cancel_job, submit_script

    try:
        job = submit_script(run_dir / JOB_SCRIPT)
    except SlurmTimeoutError as error:
        job = _find_lost_job(run_dir, files, error)
    except KeyboardInterrupt:
        files.kept = True  # Until it is certain that no job was submitted.
        _cancel_lost_job(run_dir)
        files.kept = False
        raise
    try:
        update_job(run_dir, lambda record: record.with_job(job))
    except OSError:
        cancel_job(job)
        raise
    return job


def _find_lost_job(run_dir: Path, files: SubmissionFiles, error: ValueError) -> str:
    """Finds the job that sbatch may have submitted although it got no answer in time."""
    from launcher.slurm.client import SlurmError
    from launcher.slurm.submit import find_active_jobs

    try:
        active = find_active_jobs(run_dir)
    except SlurmError:
        files.kept = True
        raise SlurmError(
            f"{error}. The job may have been submitted; its files are kept. Give the same command "
            "again later: it finds the job, or submits one"
        ) from None
    if not active:
        raise error
    return active[0].job


def _cancel_lost_job(run_dir: Path) -> None:
    from launcher.slurm.client import cancel_job
    from launcher.slurm.submit import find_active_jobs

    for job in find_active_jobs(run_dir):
        cancel_job(job.job)


def _launch_on_hosts(run: _ClusterRun, *, dry_run: bool) -> None:
    """Starts the ranks over ssh at once, and supervises them until they end."""
    if dry_run:
        hosts = ", ".join(run.cluster.hosts)
        typer.echo(f"{run.nodes} of the hosts {hosts} × {run.cluster.num_ranks_per_node} ranks")
        return
    with submission_lock(run.run_dir):
        remove_requests(run.run_dir)
        files = {
            JOB_CONFIG: render_config(run.config),
            DATA_FILES: render_data_files(run.config),
            JOB_FILE: render_job(run.record),
        }
        with submission_files(run.run_dir, files, folders=("logs",)):
            update_job(run.run_dir, lambda record: replace(record, state="submitted"))
    from bigtrain.commands.supervise import supervise_hosts

    raise typer.Exit(supervise_hosts(run.run_dir))


def _show_next_commands(run: _ClusterRun) -> None:
    from bigtrain.checkpoint.run_checkpoints import path_argument

    folder = path_argument(run.config.run_dir)
    for command in (f"status {folder}", f"logs -f {folder}", f"stop {folder}"):
        typer.echo(f"  bigtrain {command}")


def _render_profile(sources: Sequence[str]) -> Iterator[str]:
    """The words of `launch` for the same profile, from any folder."""
    for source in sources:
        key, equals, value = source.partition("=")
        if not is_override(source):
            yield "--cluster"
            yield str(Path(source).absolute()) if Path(source).exists() else source
        else:
            # A value may be a secret, and the command is printed.
            is_hidden = key.split(".")[0] == "environment"
            yield f"cluster.{key}{equals}{'VALUE' if is_hidden else value}"


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        typer.echo(f"warning: {line}", err=True)
