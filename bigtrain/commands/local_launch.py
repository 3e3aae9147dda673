"""Runs a run on this machine to its end; a run that diverged is rewound if it may be.

What to do after a divergence is decided by the function that the supervisor of a cluster job uses
(`launcher.supervisor.decide`), so there is one rule.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from bigtrain.commands.error_report import explain
from bigtrain.config import RunConfig
from bigtrain.config.rewind_plan import RewindPlan
from bigtrain.runs.automatic_rewind import (
    checkpoint_steps,
    count_rewinds,
    make_planned_rewind,
)
from bigtrain.runs.launch_end import record_end
from bigtrain.runs.launch_file import launch_file
from bigtrain.runs.resume_checks import check_run
from bigtrain.runs.rewind import render_rewind
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.skip_file import with_skips
from launcher.failures import load_error_report
from launcher.local import LaunchResult, LocalLaunch, render_failure, run_local
from launcher.ranks import error_file
from launcher.supervisor.decide import decide
from launcher.supervisor.values import (
    Action,
    AttemptEnd,
    Decision,
    EndKind,
    Policy,
    Resources,
)

_THIS_MACHINE = "localhost"


def launch_locally(config: RunConfig, *, processes: int, accepted: Sequence[str]) -> int:
    """Starts the ranks of a run, again after each rewind, until the run ends.

    Args:
        config: The run, checked.
        processes: The number of ranks.
        accepted: Keys that may differ from the checkpoint's.

    Returns:
        The exit code for the command.
    """
    folder = RunFolder(config.run_dir)
    while True:
        result = _run_attempt(config, folder, processes=processes, accepted=accepted)
        decision = _decide(config, folder, result, processes=processes)
        if decision is None or decision.action is not Action.REWIND:
            return result.exit_code
        if not _rewind(folder, decision):
            return result.exit_code
        config = with_skips(config)
        check_run(config, accepted=accepted)


def _run_attempt(
    config: RunConfig, folder: RunFolder, *, processes: int, accepted: Sequence[str]
) -> LaunchResult:
    words = [word for key in accepted for word in ("--accept-change", key)]
    with launch_file(config) as file:
        launch = LocalLaunch(
            command=(sys.executable, "-m", "bigtrain.cli", "train-rank", str(file), *words),
            processes=processes,
            log_dir=folder.logs,
        )
        processes_of = "process" if processes == 1 else "processes"
        typer.echo(f"starting {processes} {processes_of} of run {config.name}", err=True)
        result = run_local(launch)
    if result.failure is not None:
        typer.echo(f"bigtrain: {render_failure(result.failure)}", err=True)
    record_end(folder, result)
    return result


def _decide(
    config: RunConfig, folder: RunFolder, result: LaunchResult, *, processes: int
) -> Decision | None:
    """What to do after a divergence; None after any other end, when the user decides."""
    failure = result.failure
    if failure is None or result.interrupted:
        return None
    divergence = _load_divergence(folder.logs, failure.rank)
    if divergence is None:
        return None
    end = AttemptEnd(
        kind=EndKind.DIVERGED,
        started_at_step=divergence.checkpoint_step,
        last_step=int(folder.load_status().get("step") or 0),
        saved_step=max(checkpoint_steps(folder.checkpoints), default=0),
        message=failure.message,
        rank=failure.rank,
        divergence=divergence,
    )
    resources = Resources(
        nodes=(_THIS_MACHINE,),
        ranks_per_node=processes,
        full_world_size=processes,
        world_sizes=(processes,),
        can_requeue=False,
    )
    rewound = AttemptEnd(EndKind.DIVERGED, 0, 0, 0, rewound=True)
    history = [rewound] * count_rewinds(folder)
    return decide(end, history, resources, Policy(rewinds=config.guard.rewind))


def _load_divergence(logs: Path, rank: int) -> RewindPlan | None:
    report = load_error_report(error_file(logs, rank))
    return None if report is None else report.divergence


def _rewind(folder: RunFolder, decision: Decision) -> bool:
    """Records the decision and rewinds the run; returns whether that succeeded."""
    plan = decision.rewind
    assert plan is not None
    typer.echo(f"bigtrain: {decision.reason}", err=True)
    # Recorded first, so that a launcher that is killed here never makes more rewinds than allowed.
    folder.record_event(
        "decision",
        action=decision.action,
        reason=decision.reason,
        excluded=[],
        nodes=[*decision.nodes],
        world_size=decision.world_size,
        rewind=count_rewinds(folder) + 1,
    )
    try:
        rewound = make_planned_rewind(folder.path, plan)
    except (ValueError, RuntimeError, OSError) as error:
        typer.echo(f"bigtrain: the run was not rewound: {explain(error)[0]}", err=True)
        return False
    for line in render_rewind(rewound)[:-1]:  # The last line is the next command.
        typer.echo(line, err=True)
    return True
