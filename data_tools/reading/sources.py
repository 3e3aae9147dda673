"""Which files a corpus is made from, in an order and under names that depend on no machine."""

import glob
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.files import file_sha256
from data_tools.reading.streams import file_system, is_url, size_and_stamp
from data_tools.reading.values import InputFile, kind_of

STANDARD_INPUT = "-"
_KNOWN = "every .txt, .jsonl, .json and .parquet file"
_HASH_CONTENT_BELOW = 1 << 30  # Two seconds of hashing; above it, sizes and stamps must do.
_OUR_RECORDS = {"report.json", "manifest.json"}  # What cleaning and sharding leave is no text.


@dataclass(frozen=True, slots=True)
class TextSource:
    """One thing the user named: a folder, a glob pattern, or all the single files together."""

    label: str
    files: tuple[InputFile, ...]


def find_sources(
    patterns: Sequence[str], *, exclude: Sequence[str] = (), folder_glob: str | None = None
) -> list[TextSource]:
    """Finds files of text: in the order of `patterns`, sorted by path within each, none twice.

    Args:
        patterns: Folders, globs (`**` crosses folders), single files, and URLs of all three.
        exclude: Shell patterns held against `/` and the path inside the folder or glob; here `*`
            crosses folders too, so `*/tests/*` leaves out every folder called tests.
        folder_glob: Which files of a folder are text; None takes every known kind.

    Raises:
        InputError: A pattern names nothing, or no file is left.
    """
    if STANDARD_INPUT in patterns:
        raise InputError("standard input (-) can only be read by `data shard`: name files")
    singles = [p for p in patterns if not is_url(p) and not _is_glob(p) and not Path(p).is_dir()]
    found = [
        _find_remote(p, folder_glob) if is_url(p) else _find_local(p, folder_glob)
        for p in patterns
        if p not in singles
    ]
    if singles:
        found.append(_single_files(singles))
    sources, seen = [], set[str]()
    for source in found:
        files = tuple(
            file for file in source.files if file.path not in seen and not _excluded(file, exclude)
        )
        seen.update(file.path for file in files)
        sources.append(TextSource(source.label, files))
    if not seen:
        chosen = f"the glob '{folder_glob}'" if folder_glob else f"a glob, by default {_KNOWN},"
        raise InputError(
            f"no text file in {', '.join(patterns)} ({chosen} chooses which files "
            f"of a folder count, exclude removes some): name other files or change these"
        )
    return [source for source in sources if source.files]


def _is_glob(pattern: str) -> bool:
    return glob.has_magic(pattern) and not Path(pattern).exists()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def hash_sources(sources: Sequence[TextSource]) -> str:
    """Hashes names, sizes and contents of all files; of many, or far ones, stamps for contents."""
    files = [file for source in sources for file in source.files]
    is_little = sum(file.bytes for file in files) < _HASH_CONTENT_BELOW
    digest = hashlib.sha256()
    for source in sources:
        for file in source.files:
            by_content = is_little and not is_url(file.path)
            seen = file_sha256(Path(file.path)) if by_content else file.stamp
            line = f"{source.label}\0{file.name}\0{file.bytes}\0{seen}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _is_known(name: str) -> bool:
    is_text = kind_of(name) is not None and name.rpartition("/")[2] not in _OUR_RECORDS
    return is_text and not _is_hidden(name)


def _excluded(file: InputFile, exclude: Sequence[str]) -> bool:
    return any(fnmatch("/" + file.name, pattern) for pattern in exclude)


def _absent(pattern: str) -> str:
    return f"{pattern} is no file, folder or glob that exists: check its spelling"


def _single_files(patterns: Sequence[str]) -> TextSource:
    for pattern in patterns:
        if not Path(pattern).is_file():
            raise InputError(
                f"{pattern} is no file, folder or glob that exists: check its spelling"
            )
    paths = sorted(Path(pattern).absolute() for pattern in patterns)
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return TextSource("files", tuple(_local_file(path, root) for path in paths))


def _find_local(pattern: str, folder_glob: str | None) -> TextSource:
    if _is_glob(pattern):
        parts = Path(pattern).absolute().parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root, inside = Path(*parts[:fixed]), "/".join(parts[fixed:])
        chosen: str | None = inside
    else:
        root, chosen = Path(pattern).resolve(), folder_glob
    paths = sorted(path for path in root.glob(chosen or "**/*") if path.is_file())
    files = (_local_file(path, root) for path in paths)
    return TextSource(
        f"{root.name}/{chosen or '**'}",
        tuple(file for file in files if chosen or _is_known(file.name)),
    )


def _local_file(path: Path, root: Path) -> InputFile:
    stat = path.stat()
    name = path.relative_to(root).as_posix()
    return InputFile(str(path), name, stat.st_size, str(stat.st_mtime_ns))


def _find_remote(pattern: str, folder_glob: str | None) -> TextSource:
    system, path = file_system(pattern)
    if glob.has_magic(path) and not system.exists(path):
        parts = path.split("/")
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root, chosen = "/".join(parts[:fixed]), "/".join(parts[fixed:])
    elif system.isdir(path):
        root, chosen = path.rstrip("/"), folder_glob or ""
    elif system.isfile(path):
        root, _, chosen = path.rpartition("/")
        file = _remote_file(system, path, root, system.info(path))
        return TextSource(f"{root.rpartition('/')[2]}/{chosen}", (file,))
    else:
        raise InputError(_absent(pattern))
    if chosen:
        found = system.glob(f"{root}/{chosen}", detail=True)
    else:
        found = system.find(root, detail=True)
    files = (
        _remote_file(system, path, root, info)
        for path, info in sorted(found.items())
        if info["type"] == "file"
    )
    return TextSource(
        f"{root.rpartition('/')[2]}/{chosen or '**'}",
        tuple(file for file in files if chosen or _is_known(file.name)),
    )


def _remote_file(system: Any, path: str, root: str, info: dict[str, Any]) -> InputFile:
    url = system.unstrip_protocol(path)
    return InputFile(url, path.removeprefix(root).lstrip("/"), *size_and_stamp(url, info))
