"""Recognizes file formats by the ending of a name, or by the first bytes of a file."""

import json
import re
from dataclasses import dataclass
from mimetypes import MimeTypes
from pathlib import PurePosixPath
from typing import Literal

FileKind = Literal["text", "json lines", "parquet", "arrow", "tar"]
Compression = Literal["gzip", "zstd", "xz", "bzip2"]

NO_ENDING = "without an ending"
HEAD_BYTES = 64 * 1024
"""How much of a file is read to detect its format."""

KNOWN_ENDINGS = (
    ".txt, .jsonl, .ndjson, .jl, .json, .parquet, .arrow, .feather and .tar, "
    "also with .gz, .zst, .xz or .bz2"
)

_KINDS: dict[str, FileKind] = {
    ".txt": "text",
    ".jsonl": "json lines",
    ".jsonlines": "json lines",
    ".ndjson": "json lines",
    ".jl": "json lines",
    ".json": "json lines",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".tar": "tar",
}
_LINES = (".jsonl", ".jsonlines", ".ndjson", ".jl")
"""The endings of files with one value per line."""
_COMPRESSIONS: dict[str, Compression] = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".xz": "xz",
    ".lzma": "xz",
    ".bz2": "bzip2",
}
_SHORT_TARS: dict[str, Compression] = {
    ".tgz": "gzip",
    ".tzst": "zstd",
    ".txz": "xz",
    ".tbz": "bzip2",
    ".tbz2": "bzip2",
}
REMEDIES = {
    ".lz4": "unpack it with lz4 -d",
    ".sz": "unpack it with snzip -d",
    ".snappy": "unpack it with snzip -d",
    ".zip": "unpack it with unzip",
    ".7z": "unpack it with 7z x",
    ".rar": "unpack it with unrar x",
    ".z": "unpack it with uncompress",
    ".br": "unpack it with brotli -d",
    ".orc": "write it as Parquet",
    ".avro": "write it as Parquet",
    ".csv": "write it as Parquet or JSON Lines",
    ".tsv": "write it as Parquet or JSON Lines",
    ".pdf": "take its text out into .txt",
    ".docx": "take its text out into .txt",
    ".warc": "take its text out into JSON Lines",
}
"""How to get the text out of files of unsupported kinds, by their last ending."""
NEVER_TEXT = REMEDIES.keys() - {".csv", ".tsv", ".warc"}
"""The endings that are certainly not plain text."""

_COMPRESSION_MAGIC: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
)
_KIND_MAGIC: tuple[tuple[bytes, FileKind], ...] = (
    (b"PAR1", "parquet"),
    (b"ARROW1\x00\x00", "arrow"),
    (b"FEA1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),
)
_PDF_MAGIC = b"%PDF-"
_PDF_LINE = re.compile(rb"%PDF-\d\.\d[ \t]*[\r\n]")
_UNSUPPORTED_MAGIC = (
    (b"PK\x03\x04", "a zip archive", ".zip"),
    (b"\x04\x22\x4d\x18", "lz4", ".lz4"),
    (b"\xff\x06\x00\x00sNaPpY", "snappy", ".sz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", ".7z"),
    (b"Rar!\x1a\x07", "a rar archive", ".rar"),
    (b"\x1f\x9d", "a file of compress", ".z"),
    (_PDF_MAGIC, "a PDF", ".pdf"),
    (b"Obj\x01", "an Avro file", ".avro"),
    (b"ORC", "an ORC file", ".orc"),
)
# UTF-32 comes before UTF-16, because the UTF-32 mark begins with the UTF-16 mark.
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_UTF8_MARK = b"\xef\xbb\xbf"
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_ENDING = re.compile(r"\.(?=\w*[^\W\d])\w{1,16}")
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
_ARRAY_OF_OBJECTS = re.compile(rb"\[\s*\{\s*(\"|\})")
_TAR_MAGIC = slice(257, 262)
# Uses only Python's own table, because the tables of the system differ between machines.
_MIME_TYPES = MimeTypes(filenames=())


@dataclass(frozen=True, slots=True)
class FileFormat:
    """The kind of a file's content, and how it is compressed."""

    kind: FileKind
    compression: Compression | None = None


def format_by_name(name: str) -> FileFormat | None:
    """The format of a file by its name; None if the name has no known ending."""
    path = PurePosixPath(name.lower())
    if path.suffix in _SHORT_TARS:
        return FileFormat("tar", _SHORT_TARS[path.suffix])
    compression = compression_by_name(name)
    kind = _KINDS.get(path.with_suffix("").suffix if compression else path.suffix)
    return FileFormat(kind, compression) if kind else None


def compression_by_name(name: str) -> Compression | None:
    """The compression of a file by its name."""
    return _COMPRESSIONS.get(PurePosixPath(name.lower()).suffix)


def ending_of(name: str) -> str:
    """The ending under which a file is counted: `.csv`, `.csv.gz`, or `without an ending`."""
    path = PurePosixPath(name.lower())
    is_compressed = path.suffix in _COMPRESSIONS or path.suffix in REMEDIES
    inner = path.with_suffix("").suffix if is_compressed else ""
    # `report.1` and `v1.2 of my notes` have no ending.
    is_ending = _ENDING.fullmatch(path.suffix) is not None
    return inner * (_ENDING.fullmatch(inner) is not None) + path.suffix if is_ending else NO_ENDING


def is_text_by_name(name: str) -> bool:
    """Whether the ending is used only for text, such as `.py` or `.md`."""
    kind, encoding = _MIME_TYPES.guess_type("x/" + name)
    return encoding is None and kind is not None and kind.startswith("text/")


def compression_by_content(head: bytes) -> Compression | None:
    """The compression of a file by its first bytes."""
    if head.startswith(b"BZh") and head[4:10] in _BZIP2_BLOCKS:
        return "bzip2"
    return next((name for magic, name in _COMPRESSION_MAGIC if head.startswith(magic)), None)


def kind_by_content(head: bytes) -> FileKind | None:
    """The kind of an uncompressed file by its first bytes; None for text and unsupported kinds."""
    if head[_TAR_MAGIC] == b"ustar" and _CONTROL.search(head[: _TAR_MAGIC.start]):
        return "tar"
    if kind := next((name for magic, name in _KIND_MAGIC if _begins(head, magic)), None):
        return kind
    text = head.removeprefix(_UTF8_MARK).lstrip()
    if _ARRAY_OF_OBJECTS.match(text) or _is_object(text.partition(b"\n")[0]):
        return "json lines"
    return None


def unsupported_content(head: bytes) -> tuple[str, str] | None:
    """The unsupported kind of a file, by its first bytes, and a remedy; None if there is none."""
    for magic, what, ending in _UNSUPPORTED_MAGIC:
        if _begins(head, magic):
            return what, REMEDIES[ending]
    return None


def wrong_content(head: bytes) -> str | None:
    """The format of a file that is not UTF-8 text, by its first bytes; None if it may be text."""
    if compression := compression_by_content(head):
        return compression
    if unsupported := unsupported_content(head):
        return unsupported[0]
    marked = (name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark))
    return next(marked, None) if len(head) > len(_BYTE_ORDER_MARKS[-1][0]) else None


def holds_json_values(head: bytes, name: str) -> bool:
    """Whether a JSON file is an array or objects over several lines, by its first bytes.

    If the name ends with `.jsonl` and the second line is a complete object, the file is JSON Lines
    and its first line is damaged, unless that line may begin an array with one object per line.
    """
    text = head.removeprefix(_UTF8_MARK).lstrip()
    line, newline, rest = text.partition(b"\n")
    if _is_called_lines(name) and _is_object(rest.lstrip().partition(b"\n")[0]):
        return line.startswith(b"[") and line.rstrip().endswith((b"[", b","))
    if text.startswith(b"["):
        return True
    opens = line.rstrip().endswith((b"{", b"[", b",", b":"))
    return bool(newline) and text.startswith(b"{") and opens and not _is_object(line)


def _is_called_lines(name: str) -> bool:
    path = PurePosixPath(name.lower())
    return (path.with_suffix("") if compression_by_name(name) else path).suffix in _LINES


def _begins(head: bytes, magic: bytes) -> bool:
    """Whether a file begins with these bytes, and is not text that begins with the same letters."""
    if magic == _PDF_MAGIC:
        return _PDF_LINE.match(head) is not None
    return head.startswith(magic) and (not magic.isalnum() or _CONTROL.search(head) is not None)


def _is_object(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line.decode("utf-8")), dict)
    except (ValueError, RecursionError):
        return False
