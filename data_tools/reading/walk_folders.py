"""Finds all files below a local folder, also through links; counts unreadable files by reason."""

import os
import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from data_tools.errors import InputError
from data_tools.reading.left_out_files import OWN_OUTPUT, LeftOut

FOLDER_OF_A_GLOB = "folder matched by the glob (add /** to read it)"
_ANY_DEPTH = "**"
_NAMES_OF_A_FOLDER = 16
TOO_MANY_NAMES = f"folder that links give more than {_NAMES_OF_A_FOLDER} names"


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file below a folder."""

    name: str
    """The path relative to the folder, with slashes."""
    path: str
    real: str
    """The path without links."""
    is_linked: bool
    """Whether it was found through a link."""


@dataclass(frozen=True, slots=True)
class _Folder:
    name: str
    path: str
    real: str
    through: tuple[str, ...] = ()
    """The real paths of the folders with the links that led to this folder, in order."""


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Compiles a glob for names with slashes to a regular expression; `**` matches any folders.

    Raises:
        InputError: The glob is not a valid pattern for names inside a folder.
    """
    from fsspec.utils import glob_translate

    parts = pattern.split("/")
    if pattern.startswith("/") or ".." in parts or parts[-1] in ("", "."):
        raise InputError(
            f"the glob {pattern!r} must match files inside a folder, such as '*.md' or "
            "'docs/**/*.md'"
        )
    try:
        return re.compile(glob_translate("/".join(part for part in parts if part != ".")))
    except (ValueError, re.error) as error:
        raise InputError(f"the glob {pattern!r} is not valid: {error}") from error


def chooses_by_folder(pattern: str) -> bool:
    """Whether a glob depends on the names of folders, not only on the names of files."""
    return any(part != _ANY_DEPTH for part in pattern.split("/")[:-1])


def may_read(path: str | Path) -> bool:
    """Whether this process may read a file."""
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


def walk(
    root: Path,
    left_out: LeftOut,
    *,
    parts: Sequence[str] = (),
    hidden: bool = False,
    own: Collection[str] = (),
    depends_on_folders: bool = False,
) -> list[FoundFile]:
    """Finds all files below a folder, also through links; does not follow links in a cycle.

    Args:
        root: The folder.
        left_out: Counts broken links, links in a cycle, and unreadable files.
        parts: The parts of a glob; folders that cannot match it are not entered.
        hidden: Whether hidden files and folders are included.
        own: Real paths of files and folders that the command itself writes; they are skipped.
        depends_on_folders: Whether the choice of files depends on the names of folders. Then a
            folder to which links give several names is entered by up to 16 of them; otherwise once.

    Returns:
        The files, sorted by the parts of their names.
    """
    walker = _Walker(root, left_out, parts, hidden, own, depends_on_folders=depends_on_folders)
    return sorted(walker.files(), key=_by_parts)


def keep_one_name(files: Iterable[FoundFile], left_out: LeftOut) -> list[FoundFile]:
    """Keeps one name for each real file: a name without links, or else the first name.

    Returns:
        The files, sorted by the parts of their names.
    """
    once: dict[str, FoundFile] = {}
    for file in sorted(files, key=lambda file: (file.is_linked, _by_parts(file))):
        if once.setdefault(file.real, file) is not file:
            left_out.add("read already by another name", file.name)
    return sorted(once.values(), key=_by_parts)


def _by_parts(file: FoundFile) -> list[str]:
    return file.name.split("/")


class _Walker:
    def __init__(
        self,
        root: Path,
        left_out: LeftOut,
        parts: Sequence[str],
        hidden: bool,
        own: Collection[str],
        *,
        depends_on_folders: bool,
    ) -> None:
        self._left_out = left_out
        self._parts = parts
        self._hidden = hidden
        self._own = own
        self._depends_on_folders = depends_on_folders
        self._entered: Counter[str] = Counter()
        self._here: deque[_Folder] = deque([_Folder("", str(root), os.path.realpath(root))])
        self._linked: deque[_Folder] = deque()

    def files(self) -> Iterator[FoundFile]:
        """Enters real folders before linked ones, so that names without links are preferred."""
        while self._here or self._linked:
            folder = (self._here or self._linked).popleft()
            if not self._depends_on_folders and self._entered[folder.real]:
                self._left_out.add("read already by another name", folder.name)
            elif self._entered[folder.real] == _NAMES_OF_A_FOLDER:
                # Folders that link to one another have too many names to try all.
                self._left_out.add(TOO_MANY_NAMES, folder.name)
            else:
                self._entered[folder.real] += 1
                yield from self._files_of(folder)

    def _files_of(self, folder: _Folder) -> Iterator[FoundFile]:
        try:
            entries = sorted(os.scandir(folder.path), key=lambda entry: entry.name)
        except OSError as error:
            self._left_out.add("unreadable", f"{folder.name}/: {error.strerror}")
            return
        for entry in entries:
            name = f"{folder.name}/{entry.name}" if folder.name else entry.name
            if f"{folder.real}/{entry.name}" in self._own:
                self._left_out.add(OWN_OUTPUT, name)
            elif entry.name.startswith(".") and not self._hidden:
                self._left_out.add("hidden", name)
            elif not self._can_follow(entry, name):
                continue
            elif entry.is_dir():
                self._add_folder(entry, name, folder)
            elif not entry.is_file():
                self._left_out.add("not a regular file", name)
            elif not may_read(entry.path):
                self._left_out.add("unreadable", name)
            else:
                is_link = entry.is_symlink()
                real = os.path.realpath(entry.path) if is_link else f"{folder.real}/{entry.name}"
                yield FoundFile(name, entry.path, real, is_link or bool(folder.through))

    def _can_follow(self, entry: "os.DirEntry[str]", name: str) -> bool:
        if not entry.is_symlink():
            return True
        try:
            entry.stat()
        except FileNotFoundError:
            self._left_out.add("behind a broken link", f"{name} → {Path(entry.path).readlink()}")
        except OSError as error:
            why = error.strerror or "unreadable"
            self._left_out.add("behind a link that cannot be followed", f"{name}: {why}")
        else:
            return True
        return False

    def _add_folder(self, entry: "os.DirEntry[str]", name: str, parent: _Folder) -> None:
        if not self._may_hold_chosen(name):
            return
        if not entry.is_symlink():
            real = f"{parent.real}/{entry.name}"
            self._here.append(_Folder(name, entry.path, real, parent.through))
            return
        real, through = os.path.realpath(entry.path), (*parent.through, parent.real)
        if any(_is_inside(real, own) for own in self._own):
            self._left_out.add(OWN_OUTPUT, name)
        elif any(_is_inside(behind, real) for behind in through):
            target = Path(entry.path).readlink()
            self._left_out.add("behind a link in a circle", f"{name} → {target}")
        else:
            self._linked.append(_Folder(name, entry.path, real, through))

    def _may_hold_chosen(self, name: str) -> bool:
        folders = name.split("/")
        for folder, part in zip(folders, self._parts, strict=False):
            if part == _ANY_DEPTH:
                return True
            if not fnmatchcase(folder, part):
                return False
        if self._parts and len(folders) == len(self._parts):
            self._left_out.add(FOLDER_OF_A_GLOB, name)
            return False
        return not self._parts or len(folders) < len(self._parts)


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
