"""wandb: a sink of the same events, with our step as its axis."""

import logging
import netrc
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bigtrain.config import RunConfig
from bigtrain.environment import wandb_host, wandb_key_is_set
from bigtrain.track.tracker import Tracker, Value

log = logging.getLogger(__name__)
_CONNECT_SECONDS = 3.0


class WandbTracker:
    """One wandb run for the life of a run folder, through any number of attempts."""

    def __init__(self, config: RunConfig, *, run_dir: Path, run_id: str, mode: str) -> None:
        import wandb

        self._run = wandb.init(
            project=config.track.project,
            name=config.name,
            id=run_id,
            resume="allow",
            dir=str(run_dir),
            mode="online" if mode == "online" else "offline",
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # An attempt that resumes offline counts wandb's own step from zero: ours is the axis.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def record(self, split: str, step: int, values: Mapping[str, Value]) -> None:
        """Logs the numbers of one step."""
        self._run.log(
            {"step": step, **{f"{split}/{name}": value for name, value in values.items()}}
        )

    def finish(self, state: str) -> None:
        """Closes the run; any end but a failure is a success to wandb."""
        self._run.finish(exit_code=1 if state == "failed" else 0)


def open_wandb(config: RunConfig, run_dir: Path, run_id: str) -> Tracker | None:
    """Opens the wandb run, or says in the log why there is none.

    Args:
        config: The run's config.
        run_dir: The run folder; offline files go into its ``wandb/``.
        run_id: wandb's id of this run folder.
    """
    mode = choose_mode(config.track.wandb)
    if mode == "off":
        return None
    try:
        tracker = WandbTracker(config, run_dir=run_dir, run_id=run_id, mode=mode)
    except Exception as error:  # wandb must never stop a run, whatever it raises.
        log.warning("wandb is off for this attempt: %s", error)
        return None
    log.info("wandb %s, run id %s", mode, run_id)
    return tracker


def choose_mode(wanted: str) -> str:
    """``online``, ``offline`` or ``off``; ``auto`` needs a key and a network to be online."""
    if wanted != "auto":
        return wanted
    return "online" if _has_key() and _is_reachable(wandb_host()) else "offline"


def _has_key() -> bool:
    if wandb_key_is_set():
        return True
    try:
        return netrc.netrc().authenticators(urlsplit(wandb_host()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _is_reachable(url: str) -> bool:
    parts: Any = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False
