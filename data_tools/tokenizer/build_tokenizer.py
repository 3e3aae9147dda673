"""The tokenizer job: trains one model file on text, and writes a note of its inputs and options.

When the same command runs again, the note (`tokenizer.model.json`) shows that its work is done.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.files import file_sha256, load_json, render_json, write_file
from data_tools.jobs.job_file import describe_changes
from data_tools.jobs.output_folder import LOCK_NAME, only_writer
from data_tools.reading.documents import ReadOptions
from data_tools.reading.left_out_files import LeftOut
from data_tools.reading.sample_text import sample_text
from data_tools.reading.text_sources import find_sources
from data_tools.tokenizer import Tokenizer, TokenizerKind, load_tokenizer, train_tokenizer
from data_tools.tokenizer.special_token_roles import CONFIG_NAME

NOTE_SCHEMA = "bigtrain-tokenizer/1"
_SMALLEST_ADVISED = 512
_BYTES_PER_ID = 300  # With less text, many pieces are words that occur in a few documents only.
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenizerResult:
    """A trained tokenizer and the amount of text it was trained on."""

    tokenizer: Tokenizer
    sample_bytes: int
    already_done: bool


def build_tokenizer(
    patterns: Sequence[str],
    *,
    out: Path,
    vocab_size: int,
    kind: TokenizerKind = "bpe",
    folder_glob: str | None = None,
    exclude: Sequence[str] = (),
    options: ReadOptions | None = None,
    max_bytes: int = 100_000_000,
    seed: int = 0,
    force: bool = False,
) -> TokenizerResult:
    """Trains a tokenizer on text, or on an evenly spread sample of it if there is much.

    Args:
        patterns: Folders, globs and files, as `find_sources` takes them.
        out: The model file.
        vocab_size: Number of ids.
        kind: `bpe` or `unigram`.
        folder_glob: Which files of a folder are text; None takes every known kind.
        exclude: Which files to leave out.
        options: Where the text is in a record, and what to do with invalid records.
        max_bytes: The largest amount of text to train on.
        seed: The seed of SentencePiece's own sampling.
        force: Replaces another model at `out`.

    Raises:
        InputError: There is no text, there is another model at `out`, or the text cannot give a
            vocabulary of this size.
    """
    left_out = LeftOut()
    sources = find_sources(
        patterns,
        exclude=exclude,
        folder_glob=folder_glob,
        own=[out.parent / LOCK_NAME, *files_of_tokenizer(out)],
        left_out=left_out,
    )
    texts = list(sample_text(sources, max_bytes=max_bytes, options=options or ReadOptions()))
    digest, size = _digest(texts)
    note = {
        "schema": NOTE_SCHEMA,
        "text_sha256": digest,
        "vocab_size": vocab_size,
        "kind": kind,
        "seed": seed,
    }
    with only_writer(out.parent):
        if out.exists() and not force:
            _check_same(out, note)
            return TokenizerResult(load_tokenizer(out), size, already_done=True)
        logger.info("training on %.1f MB of text", size / 1e6)
        _warn_of_little_text(size, vocab_size)
        tokenizer = train_tokenizer(texts, out, vocab_size=vocab_size, kind=kind, seed=seed)
        record = left_out.record()
        kept = {"model_sha256": tokenizer.sha256, **({"left_out": record} if record else {})}
        write_file(_note_path(out), render_json({**note, **kept}))
    return TokenizerResult(tokenizer, size, already_done=False)


def files_of_tokenizer(path: Path) -> list[Path]:
    """The files of a tokenizer, which may be in a folder of texts: model, note and config."""
    return [path, _note_path(path), path.with_name(CONFIG_NAME)]


def _warn_of_little_text(size: int, vocab_size: int) -> None:
    enough_for = size // _BYTES_PER_ID
    if enough_for < vocab_size:
        smaller = max(_SMALLEST_ADVISED, enough_for)
        lower = f", or lower --vocab-size to about {smaller}" if smaller < vocab_size else ""
        logger.warning(
            "%.1f MB of text is little for a vocabulary of %d: rare pieces will be words of a few "
            "documents; give more text%s",
            size / 1e6,
            vocab_size,
            lower,
        )


def _digest(texts: Sequence[str]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
        size += len(content)
    return digest.hexdigest(), size


def _note_path(out: Path) -> Path:
    return out.with_name(out.name + ".json")


def _check_same(out: Path, note: dict[str, Any]) -> None:
    path = _note_path(out)
    there = load_json(path) if path.is_file() else {}
    wanted = {**note, "model_sha256": file_sha256(out)}
    if changes := describe_changes({key: there.get(key) for key in wanted}, wanted):
        raise InputError(
            f"{out} exists and was made with other {changes}: "
            "choose another --out, or replace it with --force"
        )
