"""The job file of an output folder, which records the job that the folder belongs to."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.files import load_json, render_json, write_file

_HASH_CHARACTERS = 12  # Enough to distinguish two hashes.
_SHOWN_CHARACTERS = 40
_NAMED_CHANGES = 6
_TEXT = "text"
_OTHER_TEXT = (
    "files were added, removed or changed, or this version reads files that the job's version left "
    "out, such as .tar, .arrow and .xz: put the old files back, or exclude the new ones with "
    "exclude"
)

MayChange = Callable[[Mapping[str, Any], Mapping[str, Any]], Collection[str]]
"""Takes the choices in the file and the new ones; returns the keys that may differ."""


@dataclass(frozen=True, slots=True)
class JobFile:
    """The job file of a folder, and the choices of the job that is about to write there."""

    folder: Path
    path: Path
    choices: Mapping[str, Any]
    """The choices that determine the output of the job; its job file has the same content."""
    may_change: MayChange
    remedy: str
    """How the user chooses another folder: "choose another --out"."""

    def has_begun(self, outputs: Iterable[Path]) -> bool:
        """Whether this job has begun in its folder.

        Args:
            outputs: Existing files or folders of the kind that a job writes.

        Raises:
            InputError: Another job has begun there, or there are outputs without a job file.
        """
        if self.path.is_file():
            self._check_same(load_json(self.path))
            return True
        for found in outputs:
            raise InputError(f"{found} exists already, from an unknown job: {self.remedy}")
        return False

    @property
    def is_written(self) -> bool:
        """Whether the file exists and has exactly these choices."""
        return self.path.is_file() and self.path.read_bytes() == render_json(self.choices)

    def write(self) -> None:
        """Writes the choices, unless the file has them already."""
        if not self.is_written:
            write_file(self.path, render_json(self.choices))

    def _check_same(self, there: Any) -> None:
        theirs = there if isinstance(there, dict) else {}
        may_change = self.may_change(theirs, self.choices)
        if not (changes := describe_changes(theirs, self.choices, without=may_change)):
            return
        remedy = self.remedy
        if _TEXT in theirs and theirs[_TEXT] != self.choices.get(_TEXT):
            remedy = f"{_OTHER_TEXT}; {remedy}"
        raise InputError(
            f"{self.folder} belongs to a job with other {changes}: "
            f"nothing was changed; {remedy}, or delete that folder"
        )


def hash_choices(choices: Mapping[str, Any], *, without: Collection[str]) -> str:
    """Hashes the choices that may never change; every marker of the job records the hash."""
    lasting = {key: value for key, value in choices.items() if key not in without}
    return hashlib.sha256(render_json(lasting)).hexdigest()


def describe_changes(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], *, without: Collection[str] = ()
) -> str:
    """Lists the choices that differ, with old and new values: `seed (0 → 1), kind (bpe → unigram)`.

    Args:
        theirs: The choices of the earlier job; they may be nested.
        ours: The choices of the new job.
        without: Keys that may differ.

    Returns:
        The list in one line; empty if nothing differs.
    """
    changes = [
        f"{key} ({_show(old)} → {_show(new)})"
        for key, old, new in sorted(_differences(theirs, ours, ""), key=lambda change: change[0])
        if key not in without
    ]
    left = len(changes) - _NAMED_CHANGES
    return ", ".join(changes[:_NAMED_CHANGES]) + (f" and {left} more" if left > 0 else "")


def _differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], section: str
) -> Iterator[tuple[str, Any, Any]]:
    for key in {**theirs, **ours}:
        old, new = theirs.get(key), ours.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{section}{key}.")
        elif old != new:
            yield f"{section}{key}", old, new


def _show(value: Any) -> str:
    text = "none" if value is None else str(value)
    is_hash = isinstance(value, str) and len(value) == 64
    if is_hash:
        return text[:_HASH_CHARACTERS]
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
