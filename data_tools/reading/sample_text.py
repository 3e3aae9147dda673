"""Takes an evenly spread sample of the text of many files, to train tokenizers on."""

from collections.abc import Iterable, Iterator, Sequence

from data_tools.reading.arrow_files import arrow_text_bytes
from data_tools.reading.byte_streams import decompress, is_command, open_file, refuse_damage
from data_tools.reading.documents import Document, InputFile, Piece, ReadOptions
from data_tools.reading.json_lines import is_cut_by_lines
from data_tools.reading.parquet_files import text_bytes
from data_tools.reading.read_pieces import read_piece
from data_tools.reading.text_sources import TextSource
from data_tools.reading.webdataset_tars import tar_text_bytes

_BLOCK_BYTES = 64 * 1024
_LEAST_BLOCK_BYTES = 64
_RATIO_BYTES = 8 << 20
_BYTES_OF_A_COMMAND = 256 << 20  # An assumption: the size is unknown before the command runs.


def sample_text(
    sources: Sequence[TextSource], *, max_bytes: int, options: ReadOptions | None = None
) -> Iterator[str]:
    """Yields at most about `max_bytes` of text in parts spread evenly over all the files.

    Only the sampled parts of plain text and JSON Lines are read; files of other kinds and
    compressed files are read completely. The parts depend only on the sizes, so the same files give
    the same sample.

    Raises:
        InputError: A file is damaged, or a sampled part is invalid and `options.on_invalid` is
            `stop`.
    """
    options = options or ReadOptions()
    files = [file for source in sources for file in source.files]
    sizes = [_text_bytes(file, options) for file in files]
    share = min(1.0, max_bytes / max(1, sum(sizes)))
    block_bytes = _block_bytes(max_bytes)
    before = 0
    for file, size in zip(files, sizes, strict=True):
        if _is_read_completely(file):
            yield from _sample_evenly(_texts(Piece(file, 0, None, file.bytes), options), share)
        else:
            yield from _blocks(file, options, share, before, block_bytes)
        before += size


def _block_bytes(max_bytes: int) -> int:
    """The length of the parts; shorter for a small sample, so that it also has several parts."""
    if max_bytes >= 2 * _BLOCK_BYTES:
        return _BLOCK_BYTES
    return max(_LEAST_BLOCK_BYTES, max_bytes // 4)


def _text_bytes(file: InputFile, options: ReadOptions) -> int:
    if is_command(file.path):
        return _BYTES_OF_A_COMMAND
    match file.kind:
        case "parquet":
            return text_bytes(file, options)
        case "arrow":
            return arrow_text_bytes(file, options)
        case "tar":
            return tar_text_bytes(file)
    return int(file.bytes * _decompression_ratio(file)) if file.compressed else file.bytes


def _is_read_completely(file: InputFile) -> bool:
    if file.compressed or file.kind in ("parquet", "arrow", "tar"):
        return True
    return file.kind == "json lines" and not is_cut_by_lines(file)


def _decompression_ratio(file: InputFile) -> float:
    """The length of the text divided by that of the file, estimated from the first part."""
    with open_file(file) as raw, refuse_damage(file):
        length = len(decompress(file, raw).read(_RATIO_BYTES))
        return length / max(1, raw.tell())


def _texts(piece: Piece, options: ReadOptions) -> Iterator[str]:
    return (it.text for it in read_piece(piece, options) if isinstance(it, Document))


def _sample_evenly(texts: Iterable[str], share: float) -> Iterator[str]:
    seen = taken = 0
    for text in texts:
        for start in range(0, len(text), _BLOCK_BYTES):
            part = text[start : start + _BLOCK_BYTES]
            size = len(part.encode("utf-8"))
            seen += size
            if share == 1.0 or taken < seen * share:
                taken += size
                yield part


def _blocks(
    file: InputFile, options: ReadOptions, share: float, before: int, block_bytes: int
) -> Iterator[str]:
    for offset in range(0, file.bytes, block_bytes):
        length = min(block_bytes, file.bytes - offset)
        # A block is taken if the bytes to sample up to its end reach the next multiple of a block.
        earlier, later = (int(n * share / block_bytes) for n in (before, before + length))
        before += length
        if share < 1.0 and later == earlier:
            continue
        if file.kind == "json lines":
            yield from _texts(Piece(file, offset, offset + length, length), options)
        elif text := _read_block(file, offset, length):
            yield text


def _read_block(file: InputFile, offset: int, length: int) -> str | None:
    with open_file(file) as stream:
        stream.seek(offset)
        content = stream.read(length)
    while offset and content and content[0] & 0xC0 == 0x80:  # The rest of a character that was cut.
        content = content[1:]
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        cut_at_the_end = error.reason == "unexpected end of data" and error.start >= length - 7
        return content[: error.start].decode("utf-8") if cut_at_the_end else None
