"""Records a few steps with torch's profiler; writes a trace and a text summary."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.profiler import profile, record_function, supported_activities

from bigtrain.config.sections import ProfileConfig
from bigtrain.train.meter import RANGE_PREFIX, STEP_PARTS

log = logging.getLogger(__name__)

FOLDER = "profiles"
STEP_RANGE = "step "
"""Prefix of the name of each step in the trace."""
_COMMUNICATION = ("gloo:", "nccl:", "ncclDevKernel", "ncclKernel")
_TOP_OPERATORS = 25

Span = tuple[float, float]
"""Start and end, in µs."""


class ProfileWindow:
    """Records the steps and ranks that ``profile`` names; on other ranks it does nothing.

    Errors are logged as warnings: a profile never stops a run.
    """

    def __init__(self, config: ProfileConfig, *, run_dir: Path, rank: int) -> None:
        """Records nothing yet.

        Args:
            config: Which steps, on which ranks.
            run_dir: The run folder; files go into its ``profiles/``.
            rank: This process's rank.
        """
        self._folder = run_dir / FOLDER
        self._rank = rank
        self._steps: range = range(0)
        if config.at_step is not None and rank in config.ranks:
            self._steps = range(config.at_step, config.at_step + config.num_steps)
        self._first = 0
        self._profile: Any = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Surrounds step ``number`` (the first is 1); recording ends after the last one named."""
        if number not in self._steps:
            yield
            return
        if self._profile is None:
            self._start(number)
        with record_function(f"{STEP_RANGE}{number}"):
            yield
        if self._profile is not None and number == self._steps[-1]:
            self.close()

    def close(self) -> None:
        """Writes what was recorded, if anything; a run may end while it records."""
        recording, self._profile = self._profile, None
        if recording is None:
            return
        self._steps = range(0)
        name = f"step-{self._first}-rank-{self._rank}"
        try:
            recording.stop()
            self._folder.mkdir(parents=True, exist_ok=True)
            trace = self._folder / f"{name}.json.gz"
            part = trace.with_name(f"{name}.part.json.gz")
            recording.export_chrome_trace(str(part))
            part.replace(trace)
            summary = render_summary(recording)
            trace.with_name(f"{name}.txt").write_text(summary, encoding="utf-8")
        except Exception as error:  # Whatever the profiler or the disk raises.
            log.warning("the profile was not written: %s", error)
            return
        log.info("wrote the profile %s: %s", trace, summary.splitlines()[0])

    def _start(self, number: int) -> None:
        self._first = number
        try:
            recording = profile(activities=supported_activities())
            recording.start()
        except Exception as error:  # Another profiler may be active.
            log.warning("nothing is profiled: %s", error)
            self._steps = range(0)
            return
        self._profile = recording


def render_summary(recording: profile) -> str:
    """A summary of a profile: the time of each part of its steps, and the slowest operators.

    Shares are of the wall time from the first step's start to the last one's end. Communication is
    the time during which at least one collective or point-to-point message was active, including
    the wait for other ranks. It may overlap with computing, and with the other parts.

    Args:
        recording: A stopped profile of at least one step; its ranges have the prefixes
            ``STEP_RANGE`` and ``RANGE_PREFIX``.
    """
    events = recording.events() or []
    on_host = [event for event in events if event.device_type.name == "CPU"]
    on_device = [event for event in events if event.device_type.name != "CPU"]
    steps = _spans(on_host, (STEP_RANGE,))
    wall = max(end for _, end in steps) - min(start for start, _ in steps)
    # On a GPU the device's time counts; a part without events on the device has the host's time.
    prefixes_of = {part: (RANGE_PREFIX + part,) for part in STEP_PARTS}
    prefixes_of["communication"] = _COMMUNICATION
    parts = {
        name: _spans(on_device, prefixes) or _spans(on_host, prefixes)
        for name, prefixes in prefixes_of.items()
    }
    shares = ", ".join(
        f"{name} {_covered_time(spans) / wall:.1%}" for name, spans in parts.items() if spans
    )
    table = recording.key_averages().table(
        sort_by="self_device_time_total" if on_device else "self_cpu_time_total",
        row_limit=_TOP_OPERATORS,
        max_name_column_width=60,
    )
    return f"{len(steps)} steps, {wall / 1e3:.1f} ms; {shares or 'no part is marked'}\n\n{table}\n"


def _spans(events: Iterable[Any], prefixes: tuple[str, ...]) -> list[Span]:
    return [
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.name.startswith(prefixes)
    ]


def _covered_time(spans: Iterable[Span]) -> float:
    """The time that at least one span covers, in µs."""
    total, covered_until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, covered_until))
        covered_until = max(covered_until, end)
    return total
