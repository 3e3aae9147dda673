"""The interface of all tokenizers, and functions that they share."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from data_tools.errors import InputError
from data_tools.tokenizer.special_tokens import SpecialIds

TokenizerLibrary = Literal["sentencepiece", "huggingface"]

_SURROGATE = re.compile("[\ud800-\udfff]")
_RAW_BYTES = re.compile("([\udc80-\udcff]+)")
_DIFFICULT_TEXTS = (
    "plain words, Upper and lower.",
    "  two  blanks  each ",
    "\n\n\ttabs\r\n    and lines\n",
    "nul \x00 and \x1b, no-break \u00a0, zero-width \u200b, mark \ufeff",
    "caf\u00e9 cafe\u0301 \ufb01 \u2460 \uff21 \u00bd \u00c5 \u212b \u3000",
    "中文字符，测试。한국어 العربية हिन्दी",
    "👨‍👩‍👧 🇨🇭",
    "a \u2581 mark \u2581\u2581",
    "don't , stop . ##s <s> [MASK]",
)


class Tokenizer(Protocol):
    """Turns text into ids and back; text never becomes a special id.

    In a text, bytes that are not UTF-8 are the lone surrogates U+DC80 to U+DCFF
    (`surrogateescape`, PEP 383): `encode` turns them into byte tokens, `decode` returns them.
    """

    @property
    def path(self) -> Path:
        """The file it was read from."""

    @property
    def content(self) -> bytes:
        """The bytes of a file that defines this tokenizer, including its special ids."""

    @property
    def sha256(self) -> str:
        """The hash of `content`."""

    @property
    def special(self) -> SpecialIds:
        """The ids that represent no text."""

    @property
    def vocab_size(self) -> int:
        """The highest id plus one."""

    @property
    def kind(self) -> TokenizerLibrary:
        """The library that it uses."""

    @property
    def file_name(self) -> str:
        """The name of a copy of its file."""

    @property
    def exact(self) -> bool:
        """Whether decoding gives exactly the same text; False if the model normalizes text."""

    def encode(self, text: str) -> NDArray[np.int32]:
        """Turns text into ids `[tokens]`, adding nothing.

        Raises:
            InputError: A part of the text has no ids in this tokenizer.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Encodes several texts, each as `encode` does."""

    def encode_parts(self, parts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Encodes the parts of one text, such as sentences; together the ids decode to the text.

        Spaces at the end of a part are moved to the next part, because they belong to its first
        word. A part has no ids if a token of the part before covers it.
        """

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Turns ids back into text; special ids become nothing."""

    def piece(self, token_id: int) -> str:
        """The text of one id in the vocabulary.

        Raises:
            InputError: There is no such id.
        """

    def special_ids(self) -> list[int]:
        """All ids that represent no text, including spare ids and unk."""

    def word_starts(self) -> NDArray[np.bool_]:
        """For each id, whether it begins a word, `[vocab_size]`; used for whole-word masking."""

    def tokenizer_json(self) -> dict[str, Any] | None:
        """The `tokenizer.json` that gives the same ids; None if it cannot express the model.

        It adds nothing before or after a text, and marks the ids that no text becomes as special.
        """


def has_surrogates(text: str) -> bool:
    """Whether a text has surrogates, which UTF-8 cannot encode."""
    return _SURROGATE.search(text) is not None


def cut_at_raw_bytes(text: str) -> Iterator[str | bytes]:
    """Cuts a text into parts that UTF-8 can encode and raw bytes between them.

    Raises:
        InputError: A surrogate does not represent a raw byte.
    """
    for part in filter(None, _RAW_BYTES.split(text)):
        if fault := _SURROGATE.search(part):
            if not _RAW_BYTES.fullmatch(part):
                raise InputError(
                    f"the text has the lone surrogate U+{ord(fault[0]):04X}, which is half a "
                    "character: correct the text (in JSON it is written as "
                    f"\\u{ord(fault[0]):04x} without its other half)"
                )
            yield part.encode("utf-8", "surrogateescape")
        else:
            yield part


def move_spaces(parts: Sequence[str]) -> list[str]:
    """Moves the spaces at the end of each part to the next part; the last part keeps its own."""
    moved, spaces = [], ""
    for part in parts[:-1]:
        kept = part.rstrip(" ")
        moved.append(spaces + kept)
        spaces = part[len(kept) :]
    return [*moved, *(spaces + part for part in parts[-1:])]


def text_of(content: bytes) -> str:
    """Decodes bytes as UTF-8; bytes that are not UTF-8 become lone surrogates."""
    return content.decode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    """A decoded text that a terminal can show: raw bytes become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def round_trips(round_trip: Callable[[str], str]) -> bool:
    """Whether difficult texts are unchanged after encoding and decoding with a tokenizer."""
    return all(round_trip(text) == text for text in _DIFFICULT_TEXTS)


def check_id(token_id: int, vocab_size: int) -> int:
    """Checks that an id is in the vocabulary.

    Raises:
        InputError: The id is outside the vocabulary.
    """
    if not 0 <= token_id < vocab_size:
        raise InputError(f"token id {token_id} is outside the vocabulary of {vocab_size}")
    return int(token_id)
