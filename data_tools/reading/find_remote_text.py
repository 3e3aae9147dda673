"""Finds text at URLs, through fsspec, and handles commands (`pipe:…`)."""

import glob
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.reading.byte_streams import file_system, size_and_stamp
from data_tools.reading.choose_files import FileSelection
from data_tools.reading.documents import InputFile, PatternMatch
from data_tools.reading.file_formats import FileFormat
from data_tools.reading.find_local_text import absent, find_local, is_glob
from data_tools.reading.walk_folders import compile_glob

_TAR_NAME = re.compile(r"[^/\s'\"]+\.(?:tar(?:\.\w+)?|t[gx]z)\b")


def find_commands(commands: Sequence[str]) -> PatternMatch:
    """Treats the output of each command as a webdataset tar of unknown size."""
    files = []
    for number, command in enumerate(commands):
        names = _TAR_NAME.findall(command)
        name = names[-1] if names else f"command-{number:06d}.tar"
        files.append((command, InputFile(command, name, 0, command, FileFormat("tar"))))
    return PatternMatch("commands", tuple(files))


def find_remote(pattern: str, selection: FileSelection) -> PatternMatch:
    """Finds the text files at a URL of a file, a folder, or a glob.

    Raises:
        InputError: Nothing matches the URL, or its file system cannot be used.
    """
    system, path = file_system(pattern)
    if _is_local(system) and (is_glob(path) or Path(path).is_dir()):
        return _as_urls(system, path, find_local(path, selection))
    if glob.has_magic(path) and not system.exists(path):
        parts = path.split("/")
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root, chosen = "/".join(parts[:fixed]), "/".join(parts[fixed:])
        infos = _files(system.glob(f"{root}/{chosen}", detail=True))
        return _found(system, root, chosen, infos, selection, regex=compile_glob(chosen))
    if system.isdir(path):
        root = path.rstrip("/")
        infos = _files_of_folder(system, root, selection)
        label = selection.folder_glob or "**"
        return _found(system, root, label, infos, selection, regex=selection.compiled)
    if system.isfile(path):
        root, _, name = path.rpartition("/")
        file = _remote_file(system, path, root, system.info(path))
        seen = selection.detect(file, is_named=True)
        files = ((file.path, seen),) if seen and not selection.is_excluded(name) else ()
        return PatternMatch(f"{root.rpartition('/')[2]}/{name}", files)
    raise InputError(absent(pattern))


def _is_local(system: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(system, LocalFileSystem)


def _as_urls(system: Any, path: str, matched: PatternMatch) -> PatternMatch:
    """Gives local files their URLs, sorted by name; fsspec's own search follows link cycles."""
    files = []
    for key, file in sorted(matched.files, key=lambda pair: pair[1].name):
        url = system.unstrip_protocol(file.path)
        size, stamp = size_and_stamp(url)
        files.append((key, replace(file, path=url, bytes=size, stamp=stamp)))
    root, _, chosen = matched.label.partition("/")
    label = root if glob.has_magic(path) else path.rstrip("/").rpartition("/")[2]
    return PatternMatch(f"{label}/{chosen}", tuple(files))


def _found(
    system: Any,
    root: str,
    label: str,
    infos: dict[str, dict[str, Any]],
    selection: FileSelection,
    *,
    regex: re.Pattern[str] | None,
) -> PatternMatch:
    paths = {path.removeprefix(root).lstrip("/"): path for path in sorted(infos)}
    read = _first_bytes_of(system, lambda name: paths[name])
    files = []
    for name in selection.choose_names(list(paths), read, glob=regex):
        found = _remote_file(system, paths[name], root, infos[paths[name]])
        if seen := selection.detect(found):
            files.append((seen.path, seen))
    return PatternMatch(f"{root.rpartition('/')[2]}/{label}", tuple(files))


def _files(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {path: info for path, info in found.items() if info["type"] == "file"}


def _files_of_folder(system: Any, root: str, selection: FileSelection) -> dict[str, dict[str, Any]]:
    infos = _files(system.find(root, detail=True))
    if selection.folder_glob is not None:
        return infos
    hidden = {path for path in infos if "/." in path.removeprefix(root)}
    for path in sorted(hidden):
        selection.left_out.add("hidden", path.removeprefix(root).lstrip("/"))
    return {path: info for path, info in infos.items() if path not in hidden}


def _remote_file(system: Any, path: str, root: str, info: dict[str, Any]) -> InputFile:
    url = system.unstrip_protocol(path)
    return InputFile(url, path.removeprefix(root).lstrip("/"), *size_and_stamp(url, info))


def _first_bytes_of(system: Any, path_of: Callable[[str], str]) -> Callable[[str, int], bytes]:
    def read(name: str, size: int) -> bytes:
        try:
            content: bytes = system.cat_file(path_of(name), start=0, end=size)
        except OSError:
            return b""
        return content

    return read
