"""Reads the fields of a SentencePiece model file that its library does not expose.

The numbers of fields and piece types are those of `sentencepiece_model.proto`.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_MODEL_TYPE, _WHITESPACE_AS_SUFFIX = 3, 24
_PRECOMPILED_CHARSMAP, _ADD_DUMMY_PREFIX = 2, 3
_REMOVE_EXTRA_WHITESPACES, _ESCAPE_WHITESPACES = 4, 5
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_SCORE_STEPS = 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of a model's vocabulary."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Pieces and settings of a model file."""

    pieces: list[Piece]
    type: str
    """`unigram`, `bpe`, `word` or `char`."""
    charsmap: bytes
    """The compiled normalization rules; empty for identity."""
    add_dummy_prefix: bool
    """Whether a space is added before every text."""
    remove_extra_whitespaces: bool
    """Whether spaces at both ends are removed and consecutive spaces are replaced by one."""
    has_default_whitespace: bool
    """Whether spaces become U+2581 and belong to the word after them, as by default."""


def read_model(model: bytes) -> ModelFile:
    """Reads the bytes of a SentencePiece model."""
    messages: dict[int, dict[int, Any]] = {_TRAINER: {}, _NORMALIZER: {}}
    pieces = []
    for number, message, _ in _fields(model):
        if number == _PIECES:
            pieces.append(_piece(message))
        elif number in messages:
            messages[number] |= {inner: value for inner, value, _ in _fields(message)}
    trainer, normalizer = messages[_TRAINER], messages[_NORMALIZER]
    return ModelFile(
        pieces=pieces,
        type=_MODEL_TYPES[trainer.get(_MODEL_TYPE, 1)],
        charsmap=bytes(normalizer.get(_PRECOMPILED_CHARSMAP, b"")),
        add_dummy_prefix=bool(normalizer.get(_ADD_DUMMY_PREFIX, 1)),
        remove_extra_whitespaces=bool(normalizer.get(_REMOVE_EXTRA_WHITESPACES, 1)),
        has_default_whitespace=bool(normalizer.get(_ESCAPE_WHITESPACES, 1))
        and not trainer.get(_WHITESPACE_AS_SUFFIX, 0),
    )


def round_scores(model: bytes) -> bytes:
    """A SentencePiece model with its scores rounded to multiples of 1/1024.

    SentencePiece adds scores in single precision, the tokenizers library in double precision. With
    rounded scores both sums are exact, so segmentations with equal scores are equal in both.
    """
    rounded = bytearray(model)
    for number, message, begin in _fields(model):
        if number == _PIECES:
            for inner, value, at in _fields(message):
                if inner == 2:
                    score = round(struct.unpack("<f", value)[0] * _SCORE_STEPS) / _SCORE_STEPS
                    struct.pack_into("<f", rounded, begin + at, score)
    return bytes(rounded)


def _piece(message: bytes) -> Piece:
    values: Mapping[int, Any] = {number: value for number, value, _ in _fields(message)}
    score = struct.unpack("<f", values.get(2, bytes(4)))[0]
    return Piece(values[1].decode(), score, values.get(3, NORMAL))


def _fields(message: bytes) -> Iterator[tuple[int, Any, int]]:
    """The fields of a protobuf message: number, value (int or bytes) and offset of the value."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        begin = at
        value: Any
        if key & 7 == 0:
            value, at = _varint(message, at)
        else:
            size = {1: 8, 5: 4}.get(key & 7)
            if size is None:
                size, begin = _varint(message, at)
            at = begin + size
            value = message[begin:at]
        yield key >> 3, value, begin


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
