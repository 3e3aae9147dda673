"""wandb's id of a run, a file in the run folder: a resumed run continues its wandb run."""

import logging
import secrets
from contextlib import suppress
from pathlib import Path

from data_tools.files import write_file

log = logging.getLogger(__name__)

_FILE = "wandb_id"


def read_or_create_wandb_id(run_dir: Path) -> str:
    """Returns wandb's id of the run, created once.

    If the file cannot be read, a warning is logged and a new id is created.
    """
    file = run_dir / _FILE
    try:
        known = file.read_text(encoding="utf-8").strip()
        if known:
            return known
        log.warning("%s is empty: wandb gets a new run from here on", file)
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        log.warning("%s cannot be read (%s): wandb gets a new run", file, error)
    new = secrets.token_hex(4)
    try:
        write_file(file, f"{new}\n".encode())
    except OSError as error:
        log.warning("%s cannot be written: %s", file, error)
    return new


def read_wandb_id(run_dir: Path) -> str | None:
    """Returns wandb's id of the run; None if the run has none."""
    with suppress(OSError, UnicodeDecodeError):
        return (run_dir / _FILE).read_text(encoding="utf-8").strip() or None
    return None


def remove_wandb_id(run_dir: Path) -> None:
    """Makes the run a new one in wandb."""
    with suppress(OSError):  # For example, it is a folder; `read_or_create_wandb_id` logs that.
        (run_dir / _FILE).unlink(missing_ok=True)
