"""The TensorBoard sink: an event file for each attempt in ``tensorboard/`` of the run folder.

It writes the records itself, because tensorboardX's writer waits for a thread that ends when the
disk is full: the training loop would wait forever.
"""

import logging
import math
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigtrain.config import RunConfig
from bigtrain.track.sink_process import one_line
from bigtrain.track.tracker import Tracker, Value

log = logging.getLogger(__name__)


class TensorboardTracker:
    """Appends each event to a file; TensorBoard reads it while it grows."""

    name = "TensorBoard"

    def __init__(self, folder: Path, *, attempt: int, first_step: int) -> None:
        """Creates the file, and discards what earlier attempts recorded after ``first_step``.

        Raises:
            Exception: tensorboardX cannot be imported, or the file cannot be written.
        """
        # It imports torch if there is torch.
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import masked_crc32c

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._checksum = masked_crc32c
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names.
        name = f"attempt-{attempt:05}.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._file = (folder / name).open("xb", buffering=0)
        self._write(file_version="brain.Event:2")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=first_step + 1, session_log=start)

    def record(self, split: str, step: int, values: Mapping[str, Value]) -> None:
        """Writes the numbers of one step.

        Raises:
            OSError: The file cannot be written.
        """
        numbers = {
            f"{split}/{name}": _as_float32(value)
            for name, value in values.items()
            if isinstance(value, int | float)
        }
        points = [
            self._summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()
        ]
        self._write(step=step, summary=self._summary(value=points))

    def finish(self, state: str) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        """Writes one record of the TFRecord format: length, data, and a checksum of each."""
        data = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        checksums = (struct.pack("<I", self._checksum(part)) for part in (length, data))
        self._file.write(b"".join((length, next(checksums), data, next(checksums))))


def open_tensorboard(
    config: RunConfig, run_dir: Path, *, attempt: int, first_step: int
) -> Tracker | None:
    """Opens the TensorBoard sink.

    Args:
        config: The run's config.
        run_dir: The run folder.
        attempt: The attempt's number.
        first_step: Steps taken before this attempt.

    Returns:
        The sink; None if ``track.tensorboard`` is false, or with a warning if it cannot be opened.
    """
    if not config.track.tensorboard:
        return None
    try:
        return TensorboardTracker(run_dir / "tensorboard", attempt=attempt, first_step=first_step)
    except Exception as error:
        log.warning("TensorBoard is off for this attempt: %s", one_line(error))
        return None


def _as_float32(value: float) -> float:
    """The value, or infinity if it is too large for the file's 32-bit floats."""
    return math.copysign(math.inf, value) if abs(value) > 3.4e38 else float(value)
