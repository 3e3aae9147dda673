"""Reads a tokenizer file of either library, which is recognized by its content."""

from collections.abc import Mapping
from pathlib import Path

from data_tools.errors import InputError
from data_tools.tokenizer.huggingface import load_huggingface
from data_tools.tokenizer.sentencepiece import load_sentencepiece
from data_tools.tokenizer.tokenizer_interface import Tokenizer


def load_tokenizer(path: Path, *, special: Mapping[str, str] | None = None) -> Tokenizer:
    """Reads a SentencePiece `.model` or a Hugging Face `tokenizer.json`, with any file name.

    Args:
        path: The file.
        special: Tokens of a `tokenizer.json` by role, such as `{"eos": "<|endoftext|>"}`, if
            neither their names nor a `tokenizer_config.json` beside it show the roles. Not for a
            `.model`.

    Raises:
        InputError: There is no such file, it is not a tokenizer, or it has no eos.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the tokenizer.model or tokenizer.json in it")
    if not path.is_file():
        raise InputError(f"no tokenizer at {path}: make one with `bigtrain data tokenizer`")
    with path.open("rb") as file:
        is_json = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    if is_json:
        return load_huggingface(path, special=special)
    if special:
        raise InputError(f"{path} is a SentencePiece model, which defines its own special ids")
    return load_sentencepiece(path)
