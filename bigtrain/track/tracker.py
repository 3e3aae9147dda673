"""The protocol of all sinks, and a class that sends events to each of them."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Value = float | int | str | bool | None
log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Receives the events of a run. ``step`` is the number of steps taken."""

    def record(self, split: str, step: int, values: Mapping[str, Value]) -> None:
        """Receives the numbers of an event.

        ``split`` is ``train``, ``validation``, ``checkpoint`` (a save), ``straggler`` (a rank that
        became slow) or ``rewind`` (made before this attempt).
        """

    def finish(self, state: str) -> None:
        """Receives the end of the attempt: ``finished``, ``stopped`` or ``failed``."""


class Trackers:
    """Sends every event to every sink; a sink that fails is dropped with a warning."""

    def __init__(self, sinks: Sequence[Tracker]) -> None:
        self._sinks = list(sinks)

    def record(self, split: str, step: int, values: Mapping[str, Value]) -> None:
        """Sends the numbers of one step."""
        self._send_to_all("record", split, step, values)

    def finish(self, state: str) -> None:
        """Sends the end of the attempt."""
        self._send_to_all("finish", state)

    def _send_to_all(self, method: str, *args: Any) -> None:
        for sink in list(self._sinks):
            try:
                getattr(sink, method)(*args)
            except Exception as error:
                name = getattr(sink, "name", type(sink).__name__)
                log.warning("%s stopped recording: %s", name, error)
                self._sinks.remove(sink)
