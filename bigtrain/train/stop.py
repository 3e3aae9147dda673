"""How a run is asked to stop: by a signal on any rank, or by a file that rank 0 watches."""

import signal
from pathlib import Path
from types import FrameType

from bigtrain.config.run_files import STOP_FILE
from bigtrain.environment import read_stop_signal

_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class StopFlag:
    """Set by a signal or a file, and read at the step boundary. The handlers do nothing else."""

    def __init__(self) -> None:
        """Handles SIGTERM and SIGUSR2 from now on.

        Make it as early as possible: before, these signals would end the process. A launcher may
        start ranks with both blocked; signals that came since then are handled now.
        """
        self._file: Path | None = None
        self.reason: str | None = None
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def begin_run(self, run_dir: Path, *, watches_file: bool) -> None:
        """Also handles Ctrl-C from now on, and the file STOP in the run folder.

        Args:
            run_dir: The run folder.
            watches_file: Whether this rank looks for the file.
        """
        self._file = run_dir / STOP_FILE if watches_file else None
        # Ctrl-C on a single process without a launcher has the same effect as SIGTERM.
        signal.signal(signal.SIGINT, self._on_signal)

    def is_raised(self) -> bool:
        """Whether this rank was asked to stop."""
        if self.reason is None and self._file is not None and self._file.exists():
            self.reason = f"the file {self._file}"
        return self.reason is not None

    @property
    def description(self) -> str | None:
        """What requested the stop, for the user; None if this rank received no request."""
        # The launcher forwards Ctrl-C as SIGTERM, and first records which signal it received.
        name = read_stop_signal() if self.reason in (None, signal.SIGTERM.name) else None
        name = name or self.reason
        return "Ctrl-C" if name == signal.SIGINT.name else name

    def clear_file(self) -> None:
        """Removes the file, so that the next attempt runs."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.reason = signal.Signals(number).name
        if number == signal.SIGINT:
            # A second Ctrl-C interrupts at once.
            signal.signal(signal.SIGINT, signal.default_int_handler)
