"""Our tokenizer as files that transformers' AutoTokenizer loads, and the check that it agrees."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from data_tools.tokenizer import Tokenizer, unigram_json

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
"""What tokenizers trip over. Left out is U+2581 (▁), which transformers' Llama tokenizer reads as a
blank and ours as its own three bytes."""

_FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
_LLAMA = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": False,
    "add_eos_token": False,
    "add_prefix_space": False,
    "legacy": False,
}
_SHOWN = 24


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, max_length: int) -> None:
    """Writes the files that AutoTokenizer reads.

    Args:
        tokenizer: Ours.
        folder: Where the files go.
        max_length: The longest sequence of the model.
    """
    fast = _fast_values(tokenizer)
    settings: dict[str, Any] = {
        **(_LLAMA if fast is None else _FAST),
        "clean_up_tokenization_spaces": False,
        # Text from a corpus never becomes a special token.
        "split_special_tokens": True,
        "model_max_length": max_length,
    }
    for name, token_id in tokenizer.special.present().items():
        settings[f"{name}_token"] = tokenizer.piece(token_id)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    if fast is not None:
        (folder / "tokenizer.json").write_text(json.dumps(fast, ensure_ascii=False), "utf-8")
    else:
        (folder / tokenizer.file_name).write_bytes(tokenizer.content)
    # Saved once by transformers itself, so that readers of tokenizer.json find one too.
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    if tokenizer.kind == "sentencepiece":
        (folder / tokenizer.file_name).write_bytes(tokenizer.content)


def differing_texts(tokenizer: Tokenizer, folder: Path, texts: Sequence[str]) -> list[str]:
    """What the exported tokenizer does otherwise, one short line for every such text.

    Ids have to be equal, and so has the text they decode to; where ours gives every text back,
    theirs has to give it back too. Texts that hold U+2581 are not compared.
    """
    theirs = AutoTokenizer.from_pretrained(folder)
    differing = []
    for text in texts:
        if "\u2581" in text:
            continue
        ids = tokenizer.encode(text).tolist()
        found = theirs(text, add_special_tokens=False)["input_ids"]
        if found != ids:
            differing.append(_first_id(text, ids, found, tokenizer))
            continue
        expected = text if tokenizer.exact else tokenizer.decode(ids)
        decoded = theirs.decode(ids, skip_special_tokens=True)
        if decoded != expected:
            differing.append(_first_character(text, expected, decoded))
    return differing


def _fast_values(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """What goes into tokenizer.json, or None where transformers makes it from a BPE model."""
    if tokenizer.kind == "sentencepiece":
        return unigram_json(tokenizer.content)
    values: dict[str, Any] = json.loads(tokenizer.content)
    if "dropout" in values["model"]:
        values["model"]["dropout"] = None  # As we read it: the same ids every time.
    for token in values["added_tokens"]:
        token.pop("roles", None)  # Ours alone; tokenizer_config.json says the same.
    return values


def _first_id(text: str, ids: Sequence[int], found: Sequence[int], tokenizer: Tokenizer) -> str:
    at = _first_difference(ids, found)
    before = tokenizer.decode(ids[:at])
    return (
        f"ids of {_start(text)}: from id {at} on, after {before[-_SHOWN:]!r}, "
        f"{ids[at : at + 3]} became {list(found[at : at + 3])}"
    )


def _first_character(text: str, expected: str, decoded: str) -> str:
    at = _first_difference(expected, decoded)
    return (
        f"decoded text of {_start(text)}: from character {at} on, "
        f"{expected[at : at + _SHOWN]!r} became {decoded[at : at + _SHOWN]!r}"
    )


def _first_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> int:
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


def _start(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
