"""What every tokenizer does, whatever library is behind it, and what they share."""

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
_PROBES = (
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
    """Text to ids and back; text never becomes a special id.

    Raw bytes that are no UTF-8 stand in a text as the lone surrogates U+DC80 to U+DCFF
    (`surrogateescape`, PEP 383): `encode` turns them into byte tokens, `decode` gives them back.
    """

    @property
    def path(self) -> Path:
        """The file it was read from."""

    @property
    def content(self) -> bytes:
        """A file that gives this very tokenizer, special ids included, wherever it is copied."""

    @property
    def sha256(self) -> str:
        """The hash of `content`."""

    @property
    def special(self) -> SpecialIds:
        """The ids that stand for no text."""

    @property
    def vocab_size(self) -> int:
        """The highest id, and one."""

    @property
    def kind(self) -> TokenizerLibrary:
        """The library behind it."""

    @property
    def file_name(self) -> str:
        """What a copy of its file is called."""

    @property
    def exact(self) -> bool:
        """Whether texts come back to the letter; False where the model normalises them."""

    def encode(self, text: str) -> NDArray[np.int32]:
        """Turns text into ids `[tokens]`, adding nothing.

        Raises:
            InputError: The text holds what this tokenizer has no ids for.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Encodes several texts, each as `encode` does."""

    def encode_parts(self, parts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Encodes the parts of one text, as its sentences: together the ids decode to the text.

        Blanks at the end of a part go to the next one, to whose first word they belong. A part may
        have no ids, where a token of the part before reaches over it.
        """

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Turns ids back into text; special ids vanish."""

    def piece(self, token_id: int) -> str:
        """Names one id, as the model spells it.

        Raises:
            InputError: There is no such id.
        """

    def special_ids(self) -> list[int]:
        """All ids that stand for no text, spare ones and unknown included."""

    def word_starts(self) -> NDArray[np.bool_]:
        """Tells for every id `[vocab_size]` whether it begins a word, for whole-word masking."""

    def exchange_json(self) -> dict[str, Any] | None:
        """The `tokenizer.json` that gives the same ids; None if it cannot express the model.

        It adds nothing before or after a text. It marks as special what no text becomes.
        """


def has_surrogates(text: str) -> bool:
    """Whether a text holds what UTF-8 cannot write."""
    return _SURROGATE.search(text) is not None


def cut_at_raw_bytes(text: str) -> Iterator[str | bytes]:
    """Cuts a text into text that UTF-8 can write and raw bytes between.

    Raises:
        InputError: A surrogate stands for no raw byte.
    """
    for part in filter(None, _RAW_BYTES.split(text)):
        if fault := _SURROGATE.search(part):
            if not _RAW_BYTES.fullmatch(part):
                raise InputError(
                    f"the text holds the lone surrogate U+{ord(fault[0]):04X}, which is half a "
                    "character: mend the text (in JSON it is written as "
                    f"\\u{ord(fault[0]):04x} without its other half)"
                )
            yield part.encode("utf-8", "surrogateescape")
        else:
            yield part


def move_blanks(parts: Sequence[str]) -> list[str]:
    """Gives the blanks at the end of each part to the next; the last keeps its own."""
    moved, blanks = [], ""
    for part in parts[:-1]:
        kept = part.rstrip(" ")
        moved.append(blanks + kept)
        blanks = part[len(kept) :]
    return [*moved, *(blanks + part for part in parts[-1:])]


def text_of(content: bytes) -> str:
    """Reads bytes as text, with raw bytes as lone surrogates."""
    return content.decode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    """A decoded text as a terminal can show it: stray bytes become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def gives_back(round_trip: Callable[[str], str]) -> bool:
    """Whether a tokenizer gives hard texts back to the letter."""
    return all(round_trip(text) == text for text in _PROBES)


def check_id(token_id: int, vocab_size: int) -> int:
    """Refuses an id that is none."""
    if not 0 <= token_id < vocab_size:
        raise InputError(f"token id {token_id} is outside the vocabulary of {vocab_size}")
    return int(token_id)
