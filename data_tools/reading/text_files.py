"""Text files on disk, in an order that does not depend on the machine; one file, one document."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from data_tools.errors import InputError

DEFAULT_GLOB = "**/*.txt"
_BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class TextSource:
    """One thing the user named: a folder, a glob pattern, or all the single files together."""

    label: str
    root: Path
    files: tuple[Path, ...]

    def name_of(self, file: Path) -> str:
        """Names a file the same way wherever the source lies."""
        return file.relative_to(self.root).as_posix()


def find_sources(
    patterns: Sequence[str], *, exclude: Sequence[str] = (), folder_glob: str = DEFAULT_GLOB
) -> list[TextSource]:
    """Finds text files: in the order of `patterns`, sorted by path within each, none twice.

    Args:
        patterns: Folders, globs (`**` crosses folders) and single files.
        exclude: Shell patterns held against `/` and the path inside the folder or glob; here `*`
            crosses folders too, so `*/tests/*` leaves out every folder called tests.
        folder_glob: Which files of a folder are text.

    Raises:
        InputError: A pattern names nothing, or no file is left.
    """
    singles = tuple(Path(p) for p in patterns if not _is_glob(p) and not Path(p).is_dir())
    for path in singles:
        if not path.is_file():
            raise InputError(f"{path} is no file, folder or glob that exists: check its spelling")
    found = [_find(p, folder_glob) for p in patterns if _is_glob(p) or Path(p).is_dir()]
    if singles:
        files = tuple(sorted(path.absolute() for path in singles))
        root = Path(os.path.commonpath([file.parent for file in files]))
        found.append(TextSource("files", root, files))
    sources, seen = [], set[Path]()
    for source in found:
        files = tuple(
            f for f in source.files if f not in seen and not _excluded(source, f, exclude)
        )
        seen.update(files)
        sources.append(TextSource(source.label, source.root, files))
    if not seen:
        raise InputError(
            f"no text file in {', '.join(patterns)} (--glob '{folder_glob}' chooses which files "
            f"of a folder count, --exclude removes some): name other files or change these"
        )
    return [source for source in sources if source.files]


def find_text_files(
    patterns: Sequence[str], *, exclude: Sequence[str] = (), folder_glob: str = DEFAULT_GLOB
) -> list[Path]:
    """Finds text files as `find_sources` does, as one list."""
    sources = find_sources(patterns, exclude=exclude, folder_glob=folder_glob)
    return [file for source in sources for file in source.files]


def read_document(path: Path) -> str | None:
    """Reads one document to the letter; None where the file is empty or not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8") or None
    except UnicodeDecodeError:
        return None


def sample_text(files: Sequence[Path], *, max_bytes: int) -> Iterator[str]:
    """Yields at most about `max_bytes` of text in blocks spread evenly over all the bytes.

    Which blocks is arithmetic on the file sizes, so the same files give the same sample; a block
    that is not UTF-8 is left out.
    """
    sizes = [file.stat().st_size for file in files]
    total = max(1, sum(sizes))
    share = min(1.0, max_bytes / total)
    before = 0
    for file, size in zip(files, sizes, strict=True):
        for offset in range(0, size, _BLOCK_BYTES):
            length = min(_BLOCK_BYTES, size - offset)
            # The block in which the running share passes the next whole block's worth is taken.
            earlier, later = (int(n * share / _BLOCK_BYTES) for n in (before, before + length))
            before += length
            if (share == 1.0 or later > earlier) and (text := _read_block(file, offset, length)):
                yield text


def _read_block(file: Path, offset: int, length: int) -> str | None:
    with file.open("rb") as stream:
        stream.seek(offset)
        content = stream.read(length)
    while offset and content and content[0] & 0xC0 == 0x80:  # The rest of a cut character.
        content = content[1:]
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        cut_at_the_end = error.reason == "unexpected end of data" and error.start >= length - 7
        return content[: error.start].decode("utf-8") if cut_at_the_end else None


def _is_glob(pattern: str) -> bool:
    return glob.has_magic(pattern) and not Path(pattern).exists()


def _find(pattern: str, folder_glob: str) -> TextSource:
    if not _is_glob(pattern):
        root = Path(pattern).resolve()
        label, paths = f"{root.name}/{folder_glob}", list(root.glob(folder_glob))
    else:
        parts = Path(pattern).absolute().parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root, rest = Path(*parts[:fixed]), "/".join(parts[fixed:])
        label = f"{root.name}/{rest}"
        paths = list(root.glob(rest))
    return TextSource(label, root, tuple(sorted(path for path in paths if path.is_file())))


def _excluded(source: TextSource, file: Path, exclude: Sequence[str]) -> bool:
    inside = "/" + source.name_of(file)
    return any(fnmatch(inside, pattern) for pattern in exclude)
