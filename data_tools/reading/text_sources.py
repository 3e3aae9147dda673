"""Finds the input files; their order and names do not depend on the machine."""

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.errors import InputError
from data_tools.files import file_sha256
from data_tools.reading.byte_streams import is_command, is_url
from data_tools.reading.choose_files import FileSelection
from data_tools.reading.documents import InputFile, PatternMatch
from data_tools.reading.expand_patterns import expand_pattern
from data_tools.reading.file_formats import KNOWN_ENDINGS
from data_tools.reading.find_local_text import find_local, find_named_files, is_glob
from data_tools.reading.find_remote_text import find_commands, find_remote
from data_tools.reading.left_out_files import LeftOut

STANDARD_INPUT = "-"
_HASH_CONTENT_BELOW = 1 << 30  # Takes two seconds; of larger inputs, sizes and stamps are hashed.
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TextSource:
    """One source of text: a folder, a glob, or all the files that the user named together."""

    label: str
    files: tuple[InputFile, ...]


def find_sources(
    patterns: Sequence[str],
    *,
    exclude: Sequence[str] = (),
    folder_glob: str | None = None,
    own: Iterable[Path] = (),
    left_out: LeftOut | None = None,
) -> list[TextSource]:
    """Finds text files: in the order of `patterns`, sorted by path within each, without repeats.

    Logs the files in folders that are not read, in one or two lines, by reason with examples.

    Args:
        patterns: Folders, globs (`**` matches any folders), single files, URLs of these, commands
            (`pipe:…`), and braces such as `shards-{000..099}.tar`.
        exclude: Shell patterns that are matched with `/` and the path inside the folder or glob.
            `*` matches slashes too, so `*/tests/*` leaves out every folder named tests.
        folder_glob: Which files of a folder are text; without `/` it applies in every subfolder.
            None takes every known kind.
        own: Files and folders that the command itself reads or writes for another purpose.
        left_out: Counts files that are not read, for the job's record.

    Raises:
        InputError: A pattern matches nothing, or there is no file.
    """
    if STANDARD_INPUT in patterns:
        raise InputError("standard input (-) can only be read by `data shard`: give files")
    left_out = LeftOut() if left_out is None else left_out
    real = frozenset(os.path.realpath(path) for path in own)
    selection = FileSelection(exclude, folder_glob, real, left_out)
    try:
        sources = _join(_find_all(patterns, selection), left_out)
        if not sources:
            raise InputError(_no_text_message(patterns, folder_glob))
        return sources
    finally:
        for line in left_out.lines():
            logger.warning("%s", line)


def hash_sources(sources: Sequence[TextSource]) -> str:
    """Hashes names, sizes and contents of all files; for remote or large inputs stamps instead."""
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


def _find_all(patterns: Sequence[str], selection: FileSelection) -> list[PatternMatch]:
    """Finds the files of each pattern; single local files come last, in one source."""
    matches: list[PatternMatch] = []
    singles: list[str] = []
    for pattern in patterns:
        names = expand_pattern(pattern)
        remote = [find_remote(it, selection) for it in names if is_url(it) and not is_command(it)]
        matches += _join_braces(remote, pattern)
        if commands := [name for name in names if is_command(name)]:
            matches.append(find_commands(commands))
        local = [name for name in names if not is_url(name)]
        folders = [name for name in local if is_glob(name) or Path(name).is_dir()]
        matches += [find_local(name, selection) for name in folders]
        singles += [name for name in local if name not in folders]
    if singles:
        matches.append(find_named_files(singles, selection))
    return matches


def _join_braces(matches: Sequence[PatternMatch], pattern: str) -> Sequence[PatternMatch]:
    """Joins the files of one pattern with braces into one source, unless two have the same name."""
    files = [pair for matched in matches for pair in matched.files]
    if len(matches) < 2 or len({file.name for _, file in files}) < len(files):
        return matches
    return [PatternMatch("/".join(pattern.rsplit("/", 2)[-2:]), tuple(files))]


def _join(matches: Sequence[PatternMatch], left_out: LeftOut) -> list[TextSource]:
    sources, seen = [], set[str]()
    for matched in matches:
        files = []
        for key, file in matched.files:
            if key in seen:
                left_out.add("named twice", file.name)
            else:
                seen.add(key)
                files.append(file)
        if files:
            sources.append(TextSource(matched.label, tuple(files)))
    return sources


def _no_text_message(patterns: Sequence[str], folder_glob: str | None) -> str:
    read = (
        f"Chosen by the glob: {folder_glob}" if folder_glob else f"Read by default: {KNOWN_ENDINGS}"
    )
    return (
        f"no text file found in {', '.join(patterns)}. {read}; use --glob to choose other names, "
        "or check --exclude (in a recipe: glob and exclude)"
    )
