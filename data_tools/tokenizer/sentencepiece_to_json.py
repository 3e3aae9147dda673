"""Converts a SentencePiece model to a `tokenizer.json` that gives the same ids.

The `tokenizer.json` has these steps. The normalizer maps characters, removes extra spaces and
replaces the other spaces by U+2581. The pre-tokenizer adds U+2581 before the text and splits at
user-defined symbols. The model is a list of merges (BPE) or of scores (unigram).
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data_tools.tokenizer.plain_tokenizer_json import cut_in_names, literal
from data_tools.tokenizer.sentencepiece_model_file import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    ModelFile,
    Piece,
    read_model,
)

_SPACE_MARK = "\u2581"
_BREAK = "\ufdd0"  # A noncharacter.
_CAPITAL_I_WITH_DOT = "\u0130"
_MARKS_BEFORE_VOWELS = "\u05bc\u05bf\u05c1\u05c2\u0651\u0654"
_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
# Below the score of any spelling by other pieces, so that no text becomes a symbol.
_NEVER = -1e6
_SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


def sentencepiece_json(model: bytes, spell: Callable[[str], list[str]]) -> dict[str, Any] | None:
    """The `tokenizer.json` that gives the ids of a SentencePiece model.

    Args:
        model: The bytes of a SentencePiece model.
        spell: Splits a text into SentencePiece's pieces, without adding a space before it.

    Returns:
        None if the tokenizers library cannot express the model: `model_type=word`, unused BPE
        pieces, `treat_whitespace_as_suffix`.
    """
    file = read_model(model)
    is_unigram = file.type == "unigram"
    has_unused = any(piece.kind == UNUSED for piece in file.pieces)
    if not file.has_default_whitespace or file.type == "word" or (has_unused and not is_unigram):
        return None
    cuts = _unigram_cuts(file.pieces) if is_unigram else _bpe_cuts(file.pieces, spell)
    steps = [
        *(_dummy_prefix_steps() if file.add_dummy_prefix and _is_identity(file) else ()),
        *cuts,
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": piece.text, **_ADDED, "special": True}
            for i, piece in enumerate(file.pieces)
            if piece.kind in (UNKNOWN, CONTROL)
        ],
        "normalizer": {"type": "Sequence", "normalizers": list(_normalizers(file, spell))},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps} if steps else None,
        "post_processor": None,
        "decoder": _decoder(add_dummy_prefix=file.add_dummy_prefix),
        "model": _unigram(file.pieces) if is_unigram else _bpe(file.pieces),
    }


def _normalizers(file: ModelFile, spell: Callable[[str], list[str]]) -> Iterator[dict[str, Any]]:
    if file.charsmap:
        yield from _mapped(file.charsmap, spell)
    if file.remove_extra_whitespaces:
        yield _replace({"Regex": f"\\A[ {_SPACE_MARK}]+|[ {_SPACE_MARK}]+\\z"}, "")
        yield _replace({"Regex": f"[ {_SPACE_MARK}]+"}, " ")
    if file.add_dummy_prefix and not _is_identity(file):
        yield {"type": "Prepend", "prepend": _SPACE_MARK}
    yield _replace({"String": " "}, _SPACE_MARK)


def _mapped(charsmap: bytes, spell: Callable[[str], list[str]]) -> Iterator[dict[str, Any]]:
    # Precompiled maps a grapheme by its first character and drops the marks after it, or does not
    # map it at all. So NFKC (and Lowercase) come first, and Precompiled applies the other rules.
    # NFKC reorders combining marks, SentencePiece does not. A noncharacter after the marks of
    # Hebrew and Arabic keeps their order.
    if spell("\uff21\u2460\ufb01") == spell("A1fi"):  # False for custom rules.
        for mark in _MARKS_BEFORE_VOWELS:
            yield _replace({"String": mark}, mark + _BREAK)
        yield {"type": "NFKC"}
        yield _replace({"String": _BREAK}, "")
    if spell("A") == spell("a"):
        yield _replace({"String": _CAPITAL_I_WITH_DOT}, _BREAK)  # SentencePiece keeps this letter.
        yield {"type": "Lowercase"}
        yield _replace({"String": _BREAK}, _CAPITAL_I_WITH_DOT)
    if spell("\r\n") == spell("\n\n"):  # Precompiled would drop the \n: it is one grapheme.
        yield _replace({"String": "\r\n"}, "\n\n")
    encoded = base64.b64encode(charsmap).decode("ascii")
    yield {"type": "Precompiled", "precompiled_charsmap": encoded}


def _is_identity(file: ModelFile) -> bool:
    return not file.charsmap and not file.remove_extra_whitespaces


def _dummy_prefix_steps() -> Iterator[dict[str, Any]]:
    # Metaspace adds its mark before the first part of a text unless the text begins with that mark.
    # The mark of the first step is a space. No normalized text begins with a space, so the mark is
    # always added. The second step replaces it by U+2581.
    yield {"type": "Metaspace", "replacement": " ", "prepend_scheme": "first", "split": False}
    yield {
        "type": "Metaspace",
        "replacement": _SPACE_MARK,
        "prepend_scheme": "never",
        "split": False,
    }


def _decoder(*, add_dummy_prefix: bool) -> dict[str, Any]:
    space = _replace({"String": _SPACE_MARK}, " ")
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if add_dummy_prefix else []
    steps = [space, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    return {"type": "Sequence", "decoders": steps}


def _unigram(pieces: Sequence[Piece]) -> dict[str, Any]:
    best = max((piece.score for piece in pieces if piece.kind == NORMAL), default=0.0)

    def score(piece: Piece) -> float:
        if piece.kind == USER_DEFINED:  # As in SentencePiece, where such a piece is always chosen.
            return len(piece.text.encode()) * best - 0.1
        return piece.score if piece.kind == NORMAL else _NEVER

    return {
        "type": "Unigram",
        "unk_id": next(i for i, piece in enumerate(pieces) if piece.kind == UNKNOWN),
        "vocab": [[piece.text, score(piece)] for piece in pieces],
        "byte_fallback": True,
    }


def _unigram_cuts(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    # The score of an unknown letter is below that of any symbol. So if the name of a symbol has
    # such a letter, a text with that name would become the symbol. Cutting the name after its first
    # letter prevents this.
    known = {piece.text for piece in pieces if piece.kind == NORMAL}
    names = [piece.text for piece in pieces if piece.kind in (UNKNOWN, CONTROL, BYTE, UNUSED)]
    at_risk = [name for name in names if not known >= set(name)]
    return [cut_in_names(at_risk, behavior="Isolated")] if at_risk else []


def _bpe(pieces: Sequence[Piece]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": next(piece.text for piece in pieces if piece.kind == UNKNOWN),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": True,
        # With this, a part that is equal to a piece becomes that piece without merges, as
        # user-defined symbols must.
        "ignore_merges": any(piece.kind == USER_DEFINED for piece in pieces),
        "vocab": {piece.text: i for i, piece in enumerate(pieces)},
        "merges": _merges(pieces),
    }


def _merges(pieces: Sequence[Piece]) -> list[list[str]]:
    """The pairs of pieces that merge into each piece, by the score of the piece.

    Among the pairs of one piece, those with a longer left part come first, because SentencePiece
    merges the leftmost pair first.
    """
    normal = {piece.text for piece in pieces if piece.kind == NORMAL}
    ordered = sorted((p for p in pieces if p.kind == NORMAL), key=lambda p: -p.score)
    return [
        [piece.text[:cut], piece.text[cut:]]
        for piece in ordered
        for cut in range(len(piece.text) - 1, 0, -1)
        if piece.text[:cut] in normal and piece.text[cut:] in normal
    ]


def _bpe_cuts(pieces: Sequence[Piece], spell: Callable[[str], list[str]]) -> list[dict[str, Any]]:
    symbols = [piece.text for piece in pieces if piece.kind == USER_DEFINED]
    if not symbols:
        return []
    longest_first = sorted(symbols, key=len, reverse=True)
    steps = [{**_SPLIT, "pattern": {"Regex": "|".join(map(literal, longest_first))}}]
    # With ignore_merges, a part between the symbols may become a piece that merges cannot make,
    # such as a control symbol. Such a part is cut where SentencePiece cuts it.
    patterns = []
    for piece in pieces:
        name = piece.text
        first, *others = spell(name) if piece.kind != USER_DEFINED else [name]
        if others:
            end = len(first) if name.startswith(first) else 1  # The byte of an unknown letter.
            patterns.append(f"\\A{literal(name[:end])}(?={literal(name[end:])}\\z)")
    if patterns:
        steps.append({**_SPLIT, "pattern": {"Regex": "|".join(patterns)}})
    return steps


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}
