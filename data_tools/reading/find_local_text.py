"""Finds text on local disks: in folders, by globs, and in files that the user named."""

import glob
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from data_tools.errors import InputError
from data_tools.reading.choose_files import FileSelection, first_bytes_of
from data_tools.reading.documents import InputFile, PatternMatch
from data_tools.reading.file_formats import NEVER_TEXT, REMEDIES
from data_tools.reading.walk_folders import (
    chooses_by_folder,
    compile_glob,
    keep_one_name,
    may_read,
    walk,
)
from data_tools.reading.webdataset_tars import is_token_tar


def is_glob(pattern: str) -> bool:
    """Whether a local pattern is a glob and not the name of a file or folder."""
    return glob.has_magic(pattern) and not Path(pattern).exists()


def find_local(pattern: str, selection: FileSelection) -> PatternMatch:
    """Finds the text files of a folder or a glob.

    Raises:
        InputError: The pattern is not valid.
    """
    if is_glob(pattern):
        parts = Path(pattern).absolute().parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root, chosen = Path(*parts[:fixed]), "/".join(parts[fixed:])
        if not root.is_dir():
            raise InputError(absent(pattern))
        walked, label = chosen.split("/"), chosen
        regex: re.Pattern[str] | None = compile_glob(chosen)
    else:
        root, walked, label = Path(pattern).resolve(), [], selection.folder_glob or "**"
        regex = selection.compiled
    there = walk(
        root,
        selection.left_out,
        parts=walked,
        hidden=regex is not None,
        own=selection.own,
        depends_on_folders=selection.depends_on_folders or chooses_by_folder("/".join(walked)),
    )
    found = {file.name: file for file in there}
    read = first_bytes_of(lambda name: found[name].path)
    names = selection.choose_names(list(found), read, glob=regex, is_counted=not walked)
    chosen_files = keep_one_name((found[name] for name in names), selection.left_out)
    files = ((it.real, selection.detect(_input_file(it.path, it.name))) for it in chosen_files)
    return PatternMatch(f"{root.name}/{label}", tuple((key, file) for key, file in files if file))


def find_named_files(patterns: Sequence[str], selection: FileSelection) -> PatternMatch:
    """Finds the files that the user named one by one.

    Raises:
        InputError: A file does not exist, cannot be read, or has an unsupported kind.
    """
    for pattern in patterns:
        _check_single(pattern)
    paths = sorted(Path(pattern).absolute() for pattern in patterns)
    root = Path(os.path.commonpath([path.parent for path in paths]))
    files = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        if selection.is_excluded(name):
            selection.left_out.add("excluded", name)
        elif file := selection.detect(_input_file(str(path), name), is_named=True):
            files.append((os.path.realpath(path), file))
    return PatternMatch("files", tuple(files))


def absent(pattern: str) -> str:
    """The error message for a pattern that matches nothing."""
    return f"{pattern} is not a file, folder or glob that exists: check its spelling"


def _input_file(path: str, name: str) -> InputFile:
    status = Path(path).stat()
    return InputFile(path, name, status.st_size, str(status.st_mtime_ns))


def _check_single(pattern: str) -> None:
    path = Path(pattern)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        if path.is_symlink():
            raise InputError(f"{pattern} is a broken link to {path.readlink()}") from error
        raise InputError(absent(pattern)) from error
    except OSError as error:
        raise InputError(f"{pattern} cannot be read ({error.strerror}): repair it") from error
    if stat.S_ISFIFO(mode):
        raise InputError(
            f"{pattern} is a pipe, which can be read only once: send it to standard input and give "
            "- instead"
        )
    if not stat.S_ISREG(mode):
        raise InputError(f"{pattern} is not a regular file, so it cannot be read as text")
    if not may_read(path):
        raise InputError(f"you may not read {pattern}: change its permissions")
    if (ending := path.suffix.lower()) in NEVER_TEXT:
        raise InputError(f"{pattern} is of a kind that is not read: {REMEDIES[ending]}")
    if is_token_tar(first_bytes_of(str)(pattern, 512)):
        raise InputError(f"{pattern} has tokens that `bigtrain data shard` wrote, not text")
