"""A SentencePiece unigram model as a `tokenizer.json`, since transformers reads only BPE models.

SentencePiece adds scores as single floats, the tokenizers library as doubles. With scores that are
multiples of 1/1024 both sums are exact, so that equally good ways to cut a text stay equal in both.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SPACE_MARK = "\u2581"
_UNIGRAM, _NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 1, 2, 3, 6  # Numbers of SentencePiece's format.
# Far below every way to spell the same letters with pieces, so that no text becomes a symbol.
_NEVER = -1e6
_STEPS = 1024
_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    score: float
    kind: int


def unigram_json(model: bytes) -> dict[str, Any] | None:
    """The `tokenizer.json` that gives the ids of a unigram model.

    Args:
        model: The bytes of a SentencePiece model.

    Returns:
        None for a model that is no unigram, that normalises text, or that has pieces of its user's
        own, which a `tokenizer.json` cannot put first.
    """
    messages = _messages(model)
    trainer, normaliser = messages[2], messages[3]
    pieces = [_piece(found) for number, found, _ in _fields(model) if number == 1]
    usual = all(piece.kind in (_NORMAL, _UNKNOWN, _CONTROL, _BYTE) for piece in pieces)
    normalises = bool(normaliser.get(2)) or normaliser.get(4, 1)
    if trainer.get(3, _UNIGRAM) != _UNIGRAM or normalises or not usual:
        return None
    adds_blank = bool(normaliser.get(3, 1))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": piece.text, **_ADDED, "special": True}
            for i, piece in enumerate(pieces)
            if piece.kind in (_UNKNOWN, _CONTROL)
        ],
        "normalizer": _normaliser(adds_blank=adds_blank),
        "pre_tokenizer": _cut_at_symbols(pieces),
        "post_processor": None,
        "decoder": _decoder(adds_blank=adds_blank),
        "model": {
            "type": "Unigram",
            "unk_id": next(i for i, piece in enumerate(pieces) if piece.kind == _UNKNOWN),
            "vocab": [[p.text, p.score if p.kind == _NORMAL else _NEVER] for p in pieces],
            "byte_fallback": True,
        },
    }


def round_scores(model: bytes) -> bytes:
    """A SentencePiece model with its scores rounded to multiples of 1/1024."""
    rounded = bytearray(model)
    for number, message, begin in _fields(model):
        if number == 1:
            for inner, value, at in _fields(message):
                if inner == 2:
                    score = round(struct.unpack("<f", value)[0] * _STEPS) / _STEPS
                    struct.pack_into("<f", rounded, begin + at, score)
    return bytes(rounded)


def _normaliser(*, adds_blank: bool) -> dict[str, Any]:
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE_MARK}
    steps = [{"type": "Prepend", "prepend": _SPACE_MARK}] if adds_blank else []
    return {"type": "Sequence", "normalizers": [*steps, mark]}


def _decoder(*, adds_blank: bool) -> dict[str, Any]:
    blank = {"type": "Replace", "pattern": {"String": _SPACE_MARK}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if adds_blank else []
    steps = [blank, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    return {"type": "Sequence", "decoders": steps}


def _cut_at_symbols(pieces: Sequence[_Piece]) -> dict[str, Any] | None:
    # Letters that the vocabulary lacks cost more than any symbol, so that a text with the name of
    # one would become it: such names are cut behind their first letter.
    known = {piece.text for piece in pieces if piece.kind == _NORMAL}
    names = [piece.text for piece in pieces if piece.kind != _NORMAL]
    at_risk = [name for name in names if not known >= set(name)]
    if not at_risk:
        return None
    pattern = "|".join(f"{_literal(name[0])}(?={_literal(name[1:])})" for name in at_risk)
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _literal(text: str) -> str:
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)


def _messages(model: bytes) -> dict[int, dict[int, Any]]:
    """The training settings (2) and those of the normaliser (3), by the numbers of their fields."""
    found: dict[int, dict[int, Any]] = {2: {}, 3: {}}
    for number, message, _ in _fields(model):
        if number in found:
            found[number] |= {inner: value for inner, value, _ in _fields(message)}
    return found


def _piece(message: bytes) -> _Piece:
    values: Mapping[int, Any] = {number: value for number, value, _ in _fields(message)}
    score = struct.unpack("<f", values.get(2, bytes(4)))[0]
    return _Piece(values[1].decode(), score, values.get(3, _NORMAL))


def _fields(message: bytes) -> Iterator[tuple[int, Any, int]]:
    """Fields of a protobuf message: number, value (int, else bytes) and where the value begins."""
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
