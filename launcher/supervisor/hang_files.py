"""Writes the report about a run that hung into its log folder: ``hang-<n>.txt``."""

import logging
from collections.abc import Sequence
from pathlib import Path

from launcher.supervisor.attempt import AttemptOutcome, node_of
from launcher.supervisor.attempt_end import HangSummary
from launcher.supervisor.hang_report import RankStacks, blame, render_hang, render_hang_report
from launcher.supervisor.rank_starts import NodeRanks

logger = logging.getLogger(__name__)


def report_hang(
    outcome: AttemptOutcome, placed: Sequence[NodeRanks], log_dir: Path
) -> HangSummary | None:
    """Writes and logs the report.

    Returns:
        None if the attempt did not hang.
    """
    if outcome.hang is None:
        return None
    stacks = [
        RankStacks(
            rank=each.rank,
            node=node_of(placed, each.rank) or "",
            pid=each.pid,
            state=each.state,
            text=each.text,
            collectives=each.collectives,
        )
        for each in outcome.stacks.values()
    ]
    message = render_hang(outcome.hang, stacks)
    try:
        file = _next_file(log_dir)
        file.write_text(render_hang_report(outcome.hang, stacks), encoding="utf-8")
        logger.error("%s; the stacks: %s", message, file)
    except OSError as error:
        logger.error("%s; the report was not written: %s", message, error)
    return HangSummary(message, blame(outcome.hang, stacks))


def _next_file(log_dir: Path) -> Path:
    numbers = (file.stem.removeprefix("hang-") for file in log_dir.glob("hang-*.txt"))
    newest = max((int(number) for number in numbers if number.isdecimal()), default=0)
    return log_dir / f"hang-{newest + 1}.txt"
