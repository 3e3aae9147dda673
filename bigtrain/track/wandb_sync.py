"""Uploads what a run recorded offline: its parts in order, all under the run's wandb id.

wandb itself uploads, in a process of its own. It appends a part to the run that is on the server,
so the order matters, and a part must not be sent twice: wandb marks it with a file.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigtrain.track.process_tracker import SinkError, SinkProcess
from bigtrain.track.sink_process import one_line
from bigtrain.track.wandb_settings import NO_KEY
from bigtrain.track.wandb_sink import CONNECT_SECONDS, MODULE


class UploadError(ValueError):
    """Nothing can be uploaded from here; the message is one line and says what is missing."""


class UploadFailedError(RuntimeError):
    """wandb did not upload a part; the message is one line."""


@dataclass(frozen=True, slots=True)
class OfflinePart:
    """What one attempt recorded offline: a folder with a ``.wandb`` file."""

    folder: Path
    file: Path

    @property
    def is_synced(self) -> bool:
        """Whether wandb has marked it as uploaded."""
        return self.file.with_name(f"{self.file.name}.synced").exists()


def find_offline_parts(wandb_dir: Path) -> list[OfflinePart]:
    """The offline parts of a run, oldest first.

    Args:
        wandb_dir: The folder ``wandb`` of a run folder.
    """
    files = sorted(wandb_dir.glob("offline-run-*/*.wandb"))
    return [OfflinePart(file.parent, file) for file in files]


def check_can_upload(log_file: Path) -> None:
    """Checks that there is a key and that the server answers.

    Args:
        log_file: The file for the output of wandb.

    Raises:
        UploadError: One is missing, or wandb cannot be used.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    process = SinkProcess("wandb", module=MODULE, log_file=log_file)
    try:
        process.open({"mode": "auto", "only_check": True})
        why = process.receive(CONNECT_SECONDS)["why"]
    except SinkError as error:
        raise UploadError(f"wandb cannot be used: {error}") from None
    finally:
        process.kill()
    if why == NO_KEY:
        raise UploadError("wandb: there is no API key: set WANDB_API_KEY, or run `wandb login`")
    if why is not None:
        raise UploadError(f"wandb: {why}: run this where there is a network, such as a login node")


def upload_parts(
    parts: Sequence[OfflinePart], *, run_id: str, run_dir: Path
) -> Iterator[OfflinePart]:
    """Uploads parts one after the other; yields each when it is uploaded.

    Args:
        parts: The parts, oldest first, none of them uploaded yet.
        run_id: The run's wandb id.
        run_dir: The run folder.

    Raises:
        UploadFailedError: A part could not be uploaded; those after it are not tried.
    """
    for part in parts:
        output = _upload(part, run_id=run_id, run_dir=run_dir)
        # wandb's exit code is 0 even if it failed.
        if not part.is_synced:
            raise UploadFailedError(f"{part.folder} was not uploaded: {_reason(output)}")
        yield part


def _upload(part: OfflinePart, *, run_id: str, run_dir: Path) -> str:
    command = (sys.executable, "-m", "wandb", "sync", "--id", run_id, str(part.folder.absolute()))
    try:
        # In the run folder, because wandb writes its logs into wandb/ of its working folder.
        done = subprocess.run(
            command,
            cwd=run_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return one_line(error)
    return done.stdout


def _reason(output: str) -> str:
    """The line of wandb's output that says what went wrong."""
    lines = [line.removeprefix("wandb: ").strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    reason = next(iter([*errors, *reversed(lines)]), "wandb gave no reason")
    return reason.removeprefix("ERROR ")[:300]
