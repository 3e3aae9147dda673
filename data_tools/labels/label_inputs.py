"""The input files of a label job, with the hashes by which the same job is recognized."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_tools.files import file_sha256
from data_tools.reading.byte_streams import is_url
from data_tools.reading.documents import InputFile
from data_tools.reading.record_files import RecordFile, find_record_files


@dataclass(frozen=True, slots=True)
class HashedFile:
    """One input file."""

    found: RecordFile
    name: str
    """Its path below the folder that all inputs share, the same on every machine."""
    sha256: str
    """Of its content; at a URL, of its size and stamp."""


def find_inputs(patterns: Sequence[str]) -> list[HashedFile]:
    """Finds and hashes the files.

    Raises:
        InputError: A pattern matches nothing, or a file is of a kind that is not read.
    """
    files = find_record_files(patterns)
    local = [Path(it.file.path).absolute() for it in files if not is_url(it.file.path)]
    shared = os.path.commonpath([path.parent for path in local]) if local else ""
    return [HashedFile(it, _name(it.file, shared), _sha256(it.file)) for it in files]


def hash_inputs(files: Sequence[HashedFile]) -> str:
    """One hash of the names and contents of all files, in order."""
    lines = "".join(f"{it.name}\0{it.sha256}\n" for it in files)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _name(file: InputFile, shared: str) -> str:
    if is_url(file.path):
        return PurePosixPath(file.path).name
    return Path(file.path).absolute().relative_to(shared).as_posix()


def _sha256(file: InputFile) -> str:
    if is_url(file.path):
        return hashlib.sha256(f"{file.bytes}\0{file.stamp}".encode()).hexdigest()
    return file_sha256(Path(file.path))
