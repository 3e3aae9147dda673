"""Checks, before sharding, that a model trained with a tokenizer can be exported."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from data_tools.errors import InputError
from data_tools.tokenizer.huggingface import encoder_of
from data_tools.tokenizer.tokenizer_interface import Tokenizer

HARD_TEXTS = (
    "def f(x):\n\treturn x  # tab, then two blanks\n",
    "\n\n  leading newlines and blanks",
    "trailing blanks   \n ",
    "carriage return\r\nand form feed \f",
    "NUL \0 and escape \x1b[0m",
    "naïve café – “quotes” … ½",
    "中文、日本語、한국어。全角 space",
    "🙂👩‍👩‍👧‍👦🇨🇭 emoji with joiners and flags",
    "Ελληνικά עברית العربية हिन्दी",
    "<s> </s> <pad> <unk> <cls> <sep> <mask> are text here",
    "<0x0A> [MASK] <|endoftext|> ##pieces",
    "e\u0301 combining, \u00a0 no-break, \u200b zero-width, \ufeff BOM, \ufffd replacement",
    "x" * 300 + " " * 70 + "1234567890" * 20,
    " ",
    "a",
)
"""Texts on which tokenizers often differ. U+2581 (▁) is left out: with a SentencePiece model,
transformers reads it as a space, and bigtrain encodes it as its three bytes."""

_SPACE_MARK = "\u2581"
_MADE_TEXTS = 200
_PIECES_IN_TEXT = 12


def check_exportable(tokenizer: Tokenizer) -> None:
    """Checks that the `tokenizer.json` of a tokenizer gives the same ids for difficult texts.

    Raises:
        InputError: The ids differ for a text, which the message names, or a `tokenizer.json`
            cannot express the model.
    """
    values = tokenizer.tokenizer_json()
    if values is None:
        raise _refusal(
            tokenizer,
            "a tokenizer.json cannot express this model type (model_type=word, unused BPE pieces, "
            "or treat_whitespace_as_suffix)",
        )
    encode = encoder_of(values, tokenizer.path)
    for text in (*HARD_TEXTS, *_made_of_pieces(tokenizer)):
        try:
            ours, theirs = tokenizer.encode(text).tolist(), encode(text)
        except InputError:  # Sharding refuses a text without ids, too.
            continue
        if ours != theirs and not equally_likely(values, ours, theirs):
            raise _refusal(
                tokenizer, f"no tokenizer.json gives its ids ({text[:40]!r} has other ids there)"
            )


def equally_likely(values: dict[str, Any], ours: Sequence[int], theirs: Sequence[int]) -> bool:
    """Whether two segmentations of a text have the same score in a unigram model, up to rounding.

    SentencePiece adds scores in single precision and the tokenizers library in double precision.
    If the scores differ only by rounding, the two libraries may choose different segmentations,
    mostly the same pieces in another order.
    """
    if values["model"]["type"] != "Unigram":
        return False
    vocabulary = values["model"]["vocab"]
    one, other = (sum(vocabulary[i][1] for i in ids) for ids in (ours, theirs))
    return bool(abs(one - other) <= 1e-5 * abs(one))


def _made_of_pieces(tokenizer: Tokenizer) -> Iterator[str]:
    generator = random.Random(0)
    ids = range(tokenizer.vocab_size)
    for _ in range(_MADE_TEXTS):
        chosen = generator.choices(ids, k=_PIECES_IN_TEXT)
        text = "".join(tokenizer.decode([i]) or tokenizer.piece(i) for i in chosen)
        yield text.encode("utf-8", "ignore").decode().replace(_SPACE_MARK, " ")


def _refusal(tokenizer: Tokenizer, reason: str) -> InputError:
    return InputError(
        f"{tokenizer.path}: a model trained with it could not be exported, because {reason}: "
        "give a tokenizer.json, or train a tokenizer with `bigtrain data tokenizer`"
    )
