"""Hugging Face `tokenizer.json` files: loading them, encoding and decoding, with `tokenizers`.

Text never becomes a special token, and nothing is added before or after it. Truncation, padding and
BPE dropout in the file are ignored, so that a corpus is complete and always the same.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.errors import InputError
from data_tools.tokenizer.plain_tokenizer_json import plain_values
from data_tools.tokenizer.special_token_roles import choose_roles, record_roles
from data_tools.tokenizer.special_tokens import NONE, SpecialIds
from data_tools.tokenizer.tokenizer_interface import (
    check_id,
    cut_at_raw_bytes,
    has_surrogates,
    move_spaces,
    round_trips,
    text_of,
)
from data_tools.tokenizer.word_starts import starts_word

_SPACE_MARK = "\u2581"
_LONG_CHARACTERS = 1 << 18  # The library needs about 400 bytes per token while it encodes.
# Matches up to the last place that no word of the usual byte-level vocabularies crosses.
_UP_TO_LAST_CUT = re.compile(r"(?s).+(?<=\S)(?:\n(?=\S)|(?= ))")


class HuggingFaceTokenizer:
    """A `tokenizer.json` from disk; text never becomes one of its special ids.

    With a byte-level model, every text and every raw byte decodes to itself, unless an added token
    removes the spaces beside it. An exact byte-level model encodes texts of more than 262,144
    characters in parts, cut at line ends and spaces, to limit memory. Other models may normalize
    text (then `exact` is False), and encode text outside their vocabulary as `unk`, the only
    special id that a text may become.
    """

    kind: Literal["huggingface"] = "huggingface"
    file_name = "tokenizer.json"

    def __init__(
        self, path: Path, content: bytes, values: Mapping[str, Any], special: SpecialIds
    ) -> None:
        self.path = path
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.special = special
        added = {int(token["id"]): token for token in values["added_tokens"]}
        special_ids = {i for i, token in added.items() if token["special"]}
        special_ids |= set(special.present().values())
        roles = special.present()
        is_only_unknown = roles.pop("unk", NONE) not in roles.values()
        forbidden = special_ids - ({special.unk} if is_only_unknown else set())
        self._values = plain_values(
            values,
            {name: i for name, i in _vocabulary(values).items() if i in forbidden},
            lambda plain: encoder_of(plain, path),
        )
        self._tokenizer = _build(self._values, path)
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(ids.values()) + 1
        self._pieces = [""] * self.vocab_size
        for piece, token_id in ids.items():
            self._pieces[token_id] = piece
        self._added = {i: str(token["content"]) for i, token in added.items()}
        self._special_ids = sorted(special_ids)
        self._contents = self._byte_contents(special_ids) if _is_byte_level(values) else None
        self._byte_ids = self._find_bytes()
        self._is_forbidden = np.zeros(self.vocab_size, dtype=np.bool_)
        self._is_forbidden[list(forbidden)] = True
        self._is_wordpiece = values["model"].get("type") == "WordPiece"
        self._continuation = values["model"].get("continuing_subword_prefix") or ""
        self._can_cut = False
        # The library finds added tokens that are not special, and may drop the spaces beside them.
        strips_spaces = any(
            token.get("lstrip") or token.get("rstrip")
            for i, token in added.items()
            if i not in self._special_ids
        )
        self.exact = not strips_spaces and round_trips(lambda text: self.decode(self.encode(text)))
        self._can_cut = self.exact and self._contents is not None

    def encode(self, text: str) -> NDArray[np.int32]:
        """Turns text into ids, adding nothing.

        Raises:
            InputError: The text has raw bytes but the vocabulary has no bytes, the text has half a
                character, or a part of it can only become a special token.
        """
        try:
            return self._encode_plain(text)
        except (TypeError, ValueError):  # What the library raises for surrogates.
            if not has_surrogates(text):
                raise
        return np.concatenate([self._encode_part(part) for part in cut_at_raw_bytes(text)])

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Encodes several texts, each as `encode` does."""
        return [self.encode(text) for text in texts]

    def encode_parts(self, parts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Encodes the parts of one text, such as sentences; concatenated, the ids are the text's.

        Spaces at the end of a part are moved to the next part, because they belong to its first
        word. A part has no ids if a token of the part before covers it.
        """
        parts = move_spaces(parts)
        text = "".join(parts)
        if has_surrogates(text):
            return [self.encode(part) for part in parts]
        ids, begins = self._encode_with_offsets(text)
        starts = np.cumsum([len(part) for part in parts[:-1]], dtype=np.int64)
        return np.split(ids, np.searchsorted(begins, starts)) if parts else []

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Turns ids back into text; special ids become nothing."""
        known = [check_id(i, self.vocab_size) for i in ids]
        if self._contents is not None:
            contents = self._contents
            return text_of(b"".join([contents[i] for i in known]))
        text: str = self._tokenizer.decode(known, skip_special_tokens=True)
        return text

    def piece(self, token_id: int) -> str:
        """The text of one id, such as `Ġthe`, `##ing` or `[MASK]`; empty if the id is unused."""
        return self._pieces[check_id(token_id, self.vocab_size)]

    def special_ids(self) -> list[int]:
        """All ids that represent no text: special tokens of every kind."""
        return self._special_ids

    def word_starts(self) -> NDArray[np.bool_]:
        """For every id `[vocab_size]`, whether it begins a word."""
        return np.array([self._starts_word(i) for i in range(self.vocab_size)], dtype=np.bool_)

    def tokenizer_json(self) -> dict[str, Any] | None:
        """The `tokenizer.json` that gives the same ids: the file, changed by `plain_values`."""
        return self._values

    def _starts_word(self, token_id: int) -> bool:
        if token_id in self._added:
            return True
        if self._contents is not None:
            return starts_word(self._contents[token_id])
        piece = self._pieces[token_id]
        if self._is_wordpiece:
            return not piece.startswith(self._continuation) or starts_word(
                piece.removeprefix(self._continuation).encode()
            )
        if byte := _fallback_byte(piece):
            return byte[0] < 0x80 or starts_word(byte)
        return starts_word(piece.replace(_SPACE_MARK, " ").encode())

    def _encode_part(self, part: str | bytes) -> NDArray[np.int32]:
        if isinstance(part, str):
            return self._encode_plain(part)
        if self._byte_ids is None:
            raise InputError(
                f"{self.path} has no tokens for raw bytes, and the text has the byte "
                f"0x{part[0]:02X}, which is not UTF-8: correct the text, or use a byte-level "
                "tokenizer"
            )
        return self._byte_ids[np.frombuffer(part, dtype=np.uint8)]

    def _encode_plain(self, text: str) -> NDArray[np.int32]:
        if self._can_cut and len(text) > _LONG_CHARACTERS:
            return np.concatenate([self._encode_plain(part) for part in _cut(text)])
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        return self._encode_with_offsets(text)[0] if self._is_forbidden[ids].any() else ids

    def _encode_with_offsets(self, text: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of a text, and the index of the character at which each begins."""
        if self._can_cut and len(text) > _LONG_CHARACTERS:
            return self._encode_and_join(_cut(text))
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        forbidden = offsets[self._is_forbidden[ids]]
        if not len(forbidden):
            return ids, offsets[:, 0]
        # The model produces a special token, by merges or as a piece: cut the text inside its name.
        for begin, end in forbidden.tolist():
            if end - begin < 2:
                raise InputError(
                    f"{self.path}: {text[begin:end]!r} in the text would become a special token: "
                    "choose another special token, or another tokenizer"
                )
        cuts = [0, *(forbidden[:, 0] + 1).tolist(), len(text)]
        return self._encode_and_join(text[begin:end] for begin, end in pairwise(cuts))

    def _encode_and_join(self, parts: Iterable[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        ids, offsets, before = [], [], 0
        for part in parts:
            found = self._encode_with_offsets(part)
            ids.append(found[0])
            offsets.append(found[1] + before)
            before += len(part)
        return np.concatenate(ids), np.concatenate(offsets)

    def _byte_contents(self, special_ids: set[int]) -> list[bytes]:
        byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
        contents = []
        for token_id, piece in enumerate(self._pieces):
            if token_id in special_ids:
                contents.append(b"")
            elif token_id in self._added or not byte_of.keys() >= set(piece):
                contents.append(piece.encode())
            else:
                contents.append(bytes(byte_of[character] for character in piece))
        return contents

    def _find_bytes(self) -> NDArray[np.int32] | None:
        if self._contents is None:
            return None
        token_of = {content: i for i, content in enumerate(self._contents) if len(content) == 1}
        if len(token_of) < 256:
            return None
        return np.array([token_of[bytes([byte])] for byte in range(256)], dtype=np.int32)


def load_huggingface(
    path: Path, *, special: Mapping[str, str] | None = None
) -> HuggingFaceTokenizer:
    """Reads a `tokenizer.json`.

    Args:
        path: The file.
        special: Special tokens by role (`{"eos": "<|endoftext|>"}`). Other roles are taken from the
            file, or a `tokenizer_config.json` beside it, or the usual names.

    Raises:
        InputError: The file is not a `tokenizer.json`, or no token is known to be the eos.
    """
    content = path.read_bytes()
    try:
        values = json.loads(content)
        vocabulary = _vocabulary(values)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a tokenizer.json: give another file") from error
    roles = choose_roles(path, values, vocabulary, special or {})
    if record_roles(values, roles, vocabulary):
        # The roles become part of the file, so that a copy of it gives the same ids.
        content = json.dumps(values, ensure_ascii=False, indent=2).encode()
    return HuggingFaceTokenizer(path, content, values, SpecialIds(**roles))


def encoder_of(values: Mapping[str, Any], path: Path) -> Callable[[str], list[int]]:
    """Builds the tokenizer of a `tokenizer.json`, as a function from a text to its ids.

    Raises:
        InputError: The tokenizers library cannot read the values.
    """
    tokenizer = _build(values, path)
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _vocabulary(values: Mapping[str, Any]) -> dict[str, int]:
    pieces = values["model"]["vocab"]
    if isinstance(pieces, list):  # Unigram: pieces and their scores.
        pieces = {str(piece): i for i, (piece, _) in enumerate(pieces)}
    added = values["added_tokens"]
    return {**pieces, **{str(token["content"]): int(token["id"]) for token in added}}


def _byte_characters() -> list[str]:
    """The characters that represent the bytes 0 to 255 in byte-level vocabularies.

    As in Radford et al. 2019 (GPT-2): a printable byte is its Latin-1 character, and the others
    are U+0100 and following, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _build(values: Mapping[str, Any], path: Path) -> Any:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(values))
    except Exception as error:  # The library raises no narrower error.
        raise InputError(
            f"{path}: tokenizers {tokenizers.__version__} cannot read it: {error}"
        ) from error
    for token in values["added_tokens"]:
        found = tokenizer.token_to_id(token["content"])
        if found != token["id"]:
            raise InputError(
                f"{path}: {token['content']} has the id {token['id']}, which the tokenizers "
                f"library reads as {found}: number the added tokens consecutively after the "
                "vocabulary"
            )
    tokenizer.encode_special_tokens = True
    return tokenizer


def _is_byte_level(values: Mapping[str, Any]) -> bool:
    steps = {step["type"] for step in _steps(values.get("decoder"))}
    return "ByteLevel" in steps and steps <= {"ByteLevel", "Fuse"}


def _steps(decoder: Mapping[str, Any] | None) -> Iterable[Mapping[str, Any]]:
    if decoder is None:
        return []
    found: Iterable[Mapping[str, Any]] = decoder.get("decoders", [decoder])
    return found


def _cut(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _LONG_CHARACTERS:
        stop = start + _LONG_CHARACTERS
        found = _UP_TO_LAST_CUT.match(text, start, stop)
        end = found.end() if found else stop
        yield text[start:end]
        start = end
    yield text[start:]


def _fallback_byte(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes.fromhex(piece[3:5])
    return b""
