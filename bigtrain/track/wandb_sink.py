"""The wandb sink: one wandb run for all attempts of a run folder, kept offline if need be."""

import logging
import shlex
from pathlib import Path
from typing import Any

from bigtrain.config import RunConfig
from bigtrain.track import process_tracker
from bigtrain.track.process_tracker import ProcessTracker, SinkError, SinkProcess, Start
from bigtrain.track.tracker import Tracker

log = logging.getLogger(__name__)
MODULE = "bigtrain.track.wandb_process"
CONNECT_SECONDS = 5.5
"""Limit for finding out whether the server answers; switching to offline takes 2 or 3 s more."""


def open_wandb(config: RunConfig, run_dir: Path, run_id: str) -> Tracker | None:
    """Opens the wandb run in the background.

    Args:
        config: The run's config.
        run_dir: The run folder; wandb's files go into its ``wandb/``.
        run_id: The wandb id of this run folder.

    Returns:
        The sink; None if ``track.wandb`` is off.
    """
    if config.track.wandb == "off":
        return None
    request = {
        "mode": config.track.wandb,
        "project": config.track.project,
        "name": config.name,
        "run_id": run_id,
        "run_dir": str(run_dir.absolute()),
        "config": config.model_dump(mode="json"),
    }
    return ProcessTracker(
        "wandb",
        module=MODULE,
        log_file=run_dir / "logs" / "wandb.log",
        open_run=lambda start: _open_run(start, request, run_dir),
    )


def _open_run(start: Start, request: dict[str, Any], run_dir: Path) -> SinkProcess:
    """Opens the run as configured; if that fails, offline; then without the user's settings.

    Raises:
        SinkError: All of these failed.
    """
    requested, why = request["mode"], None
    tries = [(requested, None), ("offline", None), ("offline", run_dir)]
    for mode, clean_dir in tries[requested == "offline" :]:
        process = start(clean_dir=clean_dir)
        try:
            opened = _open_once(process, {**request, "mode": mode})
        except SinkError as error:
            process.kill()
            why = why or str(error)
            if not process.has_imported:
                break
        else:
            is_expected = requested == "auto" and not why
            _log_opened(request, opened, why or opened["why"], is_expected=is_expected)
            return process
    raise SinkError(why)


def _open_once(process: SinkProcess, request: dict[str, Any]) -> dict[str, Any]:
    """Opens a run and returns its ``mode``, its ``folder``, and ``why`` it is offline."""
    process.open(request)
    open_seconds = process_tracker.OPEN_SECONDS
    process.receive(open_seconds if request["mode"] == "offline" else CONNECT_SECONDS)
    return process.receive(open_seconds)


def _log_opened(
    request: dict[str, Any], opened: dict[str, Any], why: str | None, *, is_expected: bool
) -> None:
    run_id = request["run_id"]
    if why is None:
        log.info("wandb %s, run id %s", opened["mode"], run_id)
        return
    # With `auto`, a missing key or network is normal.
    level = logging.INFO if is_expected else logging.WARNING
    line = "wandb offline, run id %s, because %s; `bigtrain wandb sync %s` uploads it"
    log.log(level, line, run_id, why.rstrip("."), shlex.quote(request["run_dir"]))
