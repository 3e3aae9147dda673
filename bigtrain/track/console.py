"""Shows a run's progress: a bar on a terminal, lines in a log."""

import logging
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bigtrain.track.tracker import Value

log = logging.getLogger(__name__)
console = Console(stderr=True)
_LINE = "%(asctime)s %(levelname)-7s %(message)s"


def set_up_logging(rank: int, file: Path | None = None) -> None:
    """Sets up logging: rank 0 logs from INFO to stderr and a file, others from WARNING to stderr.

    Args:
        rank: This process's rank.
        file: Log file that rank 0 appends to.
    """
    handlers: list[logging.Handler] = []
    if console.is_terminal and rank == 0:
        handlers.append(
            RichHandler(
                console=console,
                show_path=False,
                show_level=False,
                log_time_format="%X",
                highlighter=NullHighlighter(),
            )
        )
    else:
        handlers.append(logging.StreamHandler())
    if file is not None and rank == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, encoding="utf-8"))
    for handler in handlers:
        # rich writes the time in its own column.
        pattern = "%(message)s" if isinstance(handler, RichHandler) else _LINE
        handler.setFormatter(logging.Formatter(pattern))
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logging.getLogger("bigtrain").setLevel(logging.INFO if rank == 0 else logging.WARNING)


class ConsoleTracker:
    """Shows the progress, the loss and the speed."""

    def __init__(self, *, steps: int, first_step: int, log_every: int) -> None:
        self._steps, self._log_every = steps, log_every
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                # The losses are in the log lines; the bar fits a terminal of 80 columns.
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._progress.add_task(
                "train", total=steps, completed=first_step, speed=""
            )
            self._progress.start()

    def record(self, split: str, step: int, values: Mapping[str, Value]) -> None:
        """Updates the bar, and logs a line if one is due."""
        text = _render(values)
        if split not in ("train", "validation"):
            return  # The log has them already, in words.
        if split != "train":
            log.info("step %d/%d %s %s", step, self._steps, split, text)
        elif self._progress is not None:
            speed = f"loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tok/s"
            self._progress.update(self._task, completed=step, speed=speed)
        if split == "train" and (step % self._log_every == 0 or step in (1, self._steps)):
            log.info("step %d/%d %s", step, self._steps, text)

    def finish(self, state: str) -> None:
        """Removes the bar."""
        if self._progress is not None:
            self._progress.stop()
        log.info("run %s", state)


def _render(values: Mapping[str, Value]) -> str:
    names = {
        "loss": ("loss", ".4f"),
        "grad_norm": ("norm", ".3f"),
        "learning_rate": ("lr", ".2e"),
        "tokens_per_second": ("tok/s", ",.0f"),
        "mfu": ("MFU", ".1%"),
        "mlm_accuracy": ("masked accuracy", ".1%"),
        "commonest_accuracy": ("most common token", ".1%"),
        "sentence_accuracy": ("pair accuracy", ".1%"),
    }
    return "  ".join(
        f"{label} {values[name]:{spec}}" for name, (label, spec) in names.items() if name in values
    )
