"""Makes rows of labelled text: the tokens of one or two texts, and the name of their class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_tools.errors import InputError
from data_tools.reading.documents import Skipped
from data_tools.reading.records import Record, RecordOptions, refuse_record
from data_tools.tokenizer import Tokenizer

Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One row of a table, before it is written."""

    tokens: Tokens
    content: bytes
    """What decides the split of the row."""
    label: str = ""
    second: int = 0
    """How many tokens are of the first text; only for classes."""
    is_answer: NDArray[np.bool_] | None = None
    """`[tokens]`: whether a token counts in the loss; only for answers."""
    length: int = 0
    """Tokens of the row with the special tokens that BERT adds."""
    untruncated: int = 0
    """The length before the row was cut; 0 if it was not."""


@dataclass(frozen=True, slots=True)
class TooLong:
    """A row that is longer than the maximum, and was not cut."""

    place: str
    length: int


class RowMaker(Protocol):
    """Makes a row from a record."""

    def make(self, record: Record) -> LabelRow | TooLong | Skipped:
        """Makes the row of a record.

        Raises:
            InputError: The record is invalid and `on_invalid` is `stop`.
        """


@dataclass(frozen=True, slots=True)
class LengthLimit:
    """The maximum number of tokens of a row, and whether longer rows are cut."""

    max_length: int | None
    truncate: bool

    def excess(self, length: int) -> int:
        """How many tokens a row of this length has too many; 0 if it fits."""
        return 0 if self.max_length is None else max(0, length - self.max_length)


class LabelledRowMaker:
    """Makes rows of one text or two, with a label."""

    def __init__(
        self,
        columns: Mapping[str, str],
        *,
        tokenizer: Tokenizer,
        reading: RecordOptions,
        limit: LengthLimit,
        labels: Sequence[str] = (),
    ) -> None:
        """Prepares making rows.

        Args:
            columns: The columns of `text`, `label` and perhaps `pair`.
            tokenizer: Turns texts into tokens.
            reading: What to do with invalid rows.
            limit: The maximum length, special tokens counted.
            labels: The classes that rows may have; empty: any.
        """
        self._columns, self._tokenizer, self._reading = columns, tokenizer, reading
        self._limit, self._labels = limit, frozenset(labels)
        self._texts = [columns[role] for role in ("text", "pair") if role in columns]
        special = tokenizer.special
        self._added = len(self._texts) + 1 if min(special.cls, special.sep) >= 0 else 0

    def make(self, record: Record) -> LabelRow | TooLong | Skipped:
        """Makes the row of a record; longer rows are cut at the end of their longer text."""
        texts: list[str] = []
        for column in self._texts:
            text = text_value(record, column, self._reading)
            if isinstance(text, Skipped):
                return text
            texts.append(text)
        label = self._label(record)
        if isinstance(label, Skipped):
            return label
        parts = encode_texts(record, texts, self._tokenizer, self._reading)
        if isinstance(parts, Skipped):
            return parts
        length = sum(map(len, parts)) + self._added
        if excess := self._limit.excess(length):
            if not self._limit.truncate:
                return TooLong(record.place, length)
            kept = cut_longest_first([len(part) for part in parts], excess)
            if min(kept) < 1:
                return TooLong(record.place, length)
            parts = [part[:size] for part, size in zip(parts, kept, strict=True)]
        return LabelRow(
            np.concatenate(parts),
            "\0".join(texts).encode("utf-8"),
            label=label,
            second=len(parts[0]),
            length=length - excess,
            untruncated=length if excess else 0,
        )

    def _label(self, record: Record) -> str | Skipped:
        column = self._columns["label"]
        value = record.values[column]
        name = label_name(value)
        if name is None:
            found = "is empty" if value is None or value == "" else _described(value)
            fault = f"has no label: '{column}' {found}"
            return refuse_record(self._reading, "no label", place=record.place, fault=fault)
        if self._labels and name not in self._labels:
            fault = f"has the label {name!r}, which is not one of --labels"
            return refuse_record(self._reading, "other label", place=record.place, fault=fault)
        return name


def cut_longest_first(lengths: Sequence[int], excess: int) -> list[int]:
    """Removes tokens one by one, each from the longest text (of equal ones, the last)."""
    kept = list(lengths)
    if len(kept) == 1:
        return [kept[0] - excess]
    long, short = max(kept), min(kept)
    removed = min(excess, long - short)
    kept[kept.index(long)] -= removed
    rest = excess - removed
    return [kept[0] - rest // 2, kept[1] - (rest - rest // 2)]


def label_name(value: Any) -> str | None:
    """The name of a class: text, a whole number or a truth value; None for anything else."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return value.strip() or None
    return None


def text_value(record: Record, column: str, reading: RecordOptions) -> str | Skipped:
    """The text in a column.

    Raises:
        InputError: It is not text or empty, and `reading.on_invalid` is `stop`.
    """
    value = record.values[column]
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            fault = f"is not UTF-8 in '{column}'"
            return refuse_record(reading, "not UTF-8", place=record.place, fault=fault)
    if value is None or (isinstance(value, str) and not value.strip()):
        fault = f"has no text in '{column}'"
        return refuse_record(reading, "empty text", place=record.place, fault=fault)
    if not isinstance(value, str):
        fault = f"has no text in '{column}', which {_described(value)}"
        return refuse_record(reading, "not text", place=record.place, fault=fault)
    return value


def encode_texts(
    record: Record, texts: Sequence[str], tokenizer: Tokenizer, reading: RecordOptions
) -> list[Tokens] | Skipped:
    """Encodes the texts of a record, each by itself.

    Raises:
        InputError: A text has no ids, and `reading.on_invalid` is `stop`.
    """
    try:
        for text in texts:
            text.encode("utf-8")  # Half a surrogate pair in JSON is not text.
        parts = [tokenizer.encode(text) for text in texts]
    except (InputError, UnicodeEncodeError) as error:
        fault = f"cannot be encoded ({error})"
        return refuse_record(reading, "cannot be encoded", place=record.place, fault=fault)
    if not all(len(part) for part in parts):
        fault = "has a text without any token"
        return refuse_record(reading, "empty text", place=record.place, fault=fault)
    return parts


def _described(value: Any) -> str:
    shown = repr(value)
    return f"is {shown if len(shown) <= 40 else shown[:40] + '…'} ({type(value).__name__})"
