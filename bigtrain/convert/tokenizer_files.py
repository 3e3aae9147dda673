"""Our tokenizer as files that transformers' AutoTokenizer loads, and the check that it agrees."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from data_tools.tokenizer import Tokenizer

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

_CLASSES: dict[str, dict[str, Any]] = {
    "sentencepiece": {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "legacy": False,
    },
    "huggingface": {"tokenizer_class": "PreTrainedTokenizerFast"},
}


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, max_length: int) -> None:
    """Writes the files that AutoTokenizer reads.

    Args:
        tokenizer: Ours.
        folder: Where the files go.
        max_length: The longest sequence of the model.
    """
    settings: dict[str, Any] = {
        **_CLASSES[tokenizer.kind],
        "clean_up_tokenization_spaces": False,
        # Text from a corpus never becomes a special token.
        "split_special_tokens": True,
        "model_max_length": max_length,
    }
    for name, token_id in tokenizer.special.present().items():
        settings[f"{name}_token"] = tokenizer.piece(token_id)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / tokenizer.file_name).write_bytes(tokenizer.content)
    # Saved once by transformers itself, so that readers of tokenizer.json find one too.
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)


def differing_texts(tokenizer: Tokenizer, folder: Path, texts: Sequence[str]) -> list[str]:
    """Texts whose ids differ in the exported tokenizer, or that do not decode back to themselves.

    Texts that hold U+2581 are not compared.
    """
    theirs = AutoTokenizer.from_pretrained(folder)
    differing = []
    for text in texts:
        if "\u2581" in text:
            continue
        ids = tokenizer.encode(text).tolist()
        same = theirs(text, add_special_tokens=False)["input_ids"] == ids
        if not same or theirs.decode(ids) != text:
            differing.append(text)
    return differing
