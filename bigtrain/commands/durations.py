"""Renders durations and times for people."""

from datetime import datetime
from itertools import pairwise

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def render_duration(seconds: float) -> str:
    """Renders a duration with its two largest units: ``3 h 12 min``, ``45 s``, ``0.52 s``."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.3g} s"
    whole = round(seconds)
    for (size, unit), (next_size, next_unit) in pairwise(_UNITS):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size} {unit}" + (f" {rest} {next_unit}" if rest else "")
    return f"{whole} s"


def render_ago(seconds: float | None) -> str:
    """Renders how long ago something was."""
    if seconds is None:
        return "at an unknown time"
    return "just now" if seconds < 2 else f"{render_duration(seconds)} ago"


def render_moment(time: float, *, now: float) -> str:
    """Renders a moment in local time; today's without the date."""
    moment, today = datetime.fromtimestamp(time), datetime.fromtimestamp(now)
    if moment.date() == today.date():
        return f"{moment:%H:%M}"
    return f"{moment:%Y-%m-%d %H:%M}"
