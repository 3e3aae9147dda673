"""Chooses the files of a folder that are text: by known endings or a glob, minus exclusions."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch

from data_tools.errors import InputError
from data_tools.reading.detect_format import detect_format
from data_tools.reading.documents import InputFile
from data_tools.reading.file_formats import ending_of, format_by_name
from data_tools.reading.left_out_files import LeftOut
from data_tools.reading.non_text_files import ReadHead, find_records
from data_tools.reading.walk_folders import chooses_by_folder, compile_glob


@dataclass(frozen=True, slots=True)
class FileSelection:
    """The user's options for choosing files in folders, and the counts of files not chosen."""

    exclude: Sequence[str] = ()
    folder_glob: str | None = None
    own: Collection[str] = ()
    """Real paths of files and folders that the command itself writes."""
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def compiled(self) -> re.Pattern[str] | None:
        """The compiled glob; without a slash it applies in every subfolder, `./*.md` in none.

        Raises:
            InputError: The glob is not valid.
        """
        if self.folder_glob is None:
            return None
        inside = self.folder_glob if "/" in self.folder_glob else f"**/{self.folder_glob}"
        return compile_glob(inside)

    @property
    def depends_on_folders(self) -> bool:
        """Whether the choice of files depends on the names of folders."""
        by_glob = self.folder_glob is not None and chooses_by_folder(self.folder_glob)
        return bool(self.exclude) or by_glob

    def choose_names(
        self,
        names: Sequence[str],
        read: ReadHead,
        *,
        glob: re.Pattern[str] | None,
        is_counted: bool = True,
    ) -> Iterator[str]:
        """Yields the names of a folder's files that are text.

        Args:
            names: All files of the folder.
            read: Reads the first bytes of a file.
            glob: Matches the names to choose; None takes every known kind.
            is_counted: Whether files that the glob does not match are counted.
        """
        records = find_records(names, read)
        for name in names:
            if self.is_excluded(name):
                self.left_out.add("excluded", name)
            elif glob and not glob.match(name):
                if is_counted:
                    self.left_out.add("not chosen by the glob", name)
            elif name in records:
                self.left_out.add(records[name], name)
            elif glob or format_by_name(name):
                yield name
            else:
                self.left_out.add(ending_of(name), name)

    def detect(self, file: InputFile, *, is_named: bool = False) -> InputFile | None:
        """Detects how to read a chosen file; returns None if its kind is not supported.

        Raises:
            InputError: Its kind is not supported, and the user named this file.
        """
        seen = detect_format(file)
        if seen.unsupported:
            if is_named:
                raise InputError(f"{file.path} is {seen.unsupported}")
            what = seen.unsupported.partition(",")[0]
            self.left_out.add(what.removeprefix("a ").removeprefix("an "), file.name)
            return None
        if seen.how:
            self.left_out.count_read(seen.how, file.name)
        if not file.bytes and seen.file.kind == "json lines":
            self.left_out.add("empty", file.name)
        return seen.file

    def is_excluded(self, name: str) -> bool:
        """Whether the user asked to leave a file out."""
        return any(fnmatch("/" + name, pattern) for pattern in self.exclude)


def first_bytes_of(paths: Callable[[str], str]) -> ReadHead:
    """Makes a reader of the first bytes of local files, by their names in a folder."""

    def read(name: str, size: int) -> bytes:
        try:
            with open(paths(name), "rb") as stream:  # noqa: PTH123 - a name need not be UTF-8
                return stream.read(size)
        except OSError:
            return b""

    return read
