"""Says what differs between the job that is in a folder and the one that somebody wants there."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.errors import InputError

_HASH_CHARACTERS = 12  # Enough to tell two apart.
_SHOWN_CHARACTERS = 40
_NAMED_CHANGES = 6
_TEXT = "text"
_OTHER_TEXT = (
    "files were added, removed or changed, or this version reads files that the job's version left "
    "out, as .tar, .arrow and .xz: put the old files back, or leave the new ones out with exclude"
)

MayChange = Callable[[Mapping[str, Any], Mapping[str, Any]], set[str]]
"""Takes the choices that are there and the new ones; gives the keys that need not agree."""


def check_same_job(
    ours: Mapping[str, Any], there: Any, *, folder: Path, may_change: MayChange, way_out: str
) -> None:
    """Compares a job with the one that a folder belongs to.

    Args:
        ours: The choices of a job, as its file has them; sections may hold more.
        there: What that file has.
        folder: The job's folder.
        may_change: Which choices need not agree.
        way_out: How to name another folder.

    Raises:
        InputError: They differ; the message has every choice with both its values.
    """
    theirs = there if isinstance(there, dict) else {}
    free = may_change(theirs, ours)
    changes = [
        f"{key} ({_show(old)} → {_show(new)})"
        for key, old, new in sorted(_differences(theirs, ours, ""), key=lambda change: change[0])
        if key not in free
    ]
    if changes:
        if _differ_in(_TEXT, theirs, ours):
            way_out = f"{_OTHER_TEXT}; {way_out}"
        left = len(changes) - _NAMED_CHANGES
        more = f" and {left} more" if left > 0 else ""
        raise InputError(
            f"{folder} belongs to a job with other {', '.join(changes[:_NAMED_CHANGES])}{more}: "
            f"nothing was changed; {way_out}, or delete that folder"
        )


def _differ_in(key: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    return key in theirs and theirs[key] != ours.get(key)


def _differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], where: str
) -> Iterator[tuple[str, Any, Any]]:
    for key in {**theirs, **ours}:
        old, new = theirs.get(key), ours.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{where}{key}.")
        elif old != new:
            yield f"{where}{key}", old, new


def _show(value: Any) -> str:
    text = "none" if value is None else str(value)
    is_hash = isinstance(value, str) and len(value) == 64
    if is_hash:
        return text[:_HASH_CHARACTERS]
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
