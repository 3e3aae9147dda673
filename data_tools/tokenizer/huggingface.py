"""A Hugging Face `tokenizer.json` as it is. The one module that knows the tokenizers library.

Text never becomes a special token, and nothing is added before or after it. What the file says of
truncation, padding and BPE dropout is left aside: a corpus is whole, and the same every time.
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
from data_tools.tokenizer.special_token_roles import choose_roles, remember_roles
from data_tools.tokenizer.special_tokens import NONE, SpecialIds
from data_tools.tokenizer.tokenizer_interface import (
    check_id,
    cut_at_raw_bytes,
    gives_back,
    has_surrogates,
    move_blanks,
    text_of,
)
from data_tools.tokenizer.word_starts import starts_word

_SPACE_MARK = "\u2581"
_LONG_CHARACTERS = 1 << 18  # The library takes some 400 bytes a token while it works.
# Where no word of the field's byte-level vocabularies reaches over, up to the last such place.
_UP_TO_LAST_CUT = re.compile(r"(?s).+(?<=\S)(?:\n(?=\S)|(?= ))")


class HuggingFaceTokenizer:
    """A `tokenizer.json` from disk; text never becomes one of its special ids.

    Byte-level models give every text and every raw byte back, unless an added token takes the
    blanks beside it. Texts of more than 262,144 characters go through exact ones in parts, cut at
    line ends and blanks, which bounds the memory. Other models may normalise (then `exact` is
    False), and write what is outside their vocabulary as `unk`, the one special id that a text may
    give.
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
        self._may_cut = False
        # The library finds added tokens that are not special, and may drop the blanks beside them.
        takes_blanks = any(
            token.get("lstrip") or token.get("rstrip")
            for i, token in added.items()
            if i not in self._special_ids
        )
        self.exact = not takes_blanks and gives_back(lambda text: self.decode(self.encode(text)))
        self._may_cut = self.exact and self._contents is not None

    def encode(self, text: str) -> NDArray[np.int32]:
        """Turns text into ids, adding nothing.

        Raises:
            InputError: The text holds raw bytes and the vocabulary is not of bytes, or half a
                character, or nothing but a special token can stand for a part of it.
        """
        try:
            return self._encode_plain(text)
        except (TypeError, ValueError):  # How tokenizers refuses surrogates.
            if not has_surrogates(text):
                raise
        return np.concatenate([self._encode_part(part) for part in cut_at_raw_bytes(text)])

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Encodes several texts, each as `encode` does."""
        return [self.encode(text) for text in texts]

    def encode_parts(self, parts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Encodes the parts of one text, as its sentences: together they are the ids of the text.

        Blanks at the end of a part go to the next one, to whose first word they belong. A part may
        have no ids, where a token of the part before reaches over it.
        """
        parts = move_blanks(parts)
        text = "".join(parts)
        if has_surrogates(text):
            return [self.encode(part) for part in parts]
        ids, begins = self._encode_with_places(text)
        starts = np.cumsum([len(part) for part in parts[:-1]], dtype=np.int64)
        return np.split(ids, np.searchsorted(begins, starts)) if parts else []

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Turns ids back into text; special ids vanish."""
        known = [check_id(i, self.vocab_size) for i in ids]
        if self._contents is not None:
            contents = self._contents
            return text_of(b"".join([contents[i] for i in known]))
        text: str = self._tokenizer.decode(known, skip_special_tokens=True)
        return text

    def piece(self, token_id: int) -> str:
        """Names one id, as `Ġthe`, `##ing` or `[MASK]`; an unused id has an empty name."""
        return self._pieces[check_id(token_id, self.vocab_size)]

    def special_ids(self) -> list[int]:
        """All ids that stand for no text: special tokens of every kind."""
        return self._special_ids

    def word_starts(self) -> NDArray[np.bool_]:
        """Tells for every id `[vocab_size]` whether it begins a word."""
        return np.array([self._starts_word(i) for i in range(self.vocab_size)], dtype=np.bool_)

    def exchange_json(self) -> dict[str, Any] | None:
        """The `tokenizer.json` that gives the same ids: the file, as `plain_values` changes it."""
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
                f"{self.path} has no tokens for raw bytes, and the text holds the byte "
                f"0x{part[0]:02X}, which is no UTF-8: mend the text, or take a byte-level tokenizer"
            )
        return self._byte_ids[np.frombuffer(part, dtype=np.uint8)]

    def _encode_plain(self, text: str) -> NDArray[np.int32]:
        if self._may_cut and len(text) > _LONG_CHARACTERS:
            return np.concatenate([self._encode_plain(part) for part in _cut(text)])
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        return self._encode_with_places(text)[0] if self._is_forbidden[ids].any() else ids

    def _encode_with_places(self, text: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of a text, and the character at which each begins."""
        if self._may_cut and len(text) > _LONG_CHARACTERS:
            return self._encode_in_a_row(_cut(text))
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        places = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        forbidden = places[self._is_forbidden[ids]]
        if not len(forbidden):
            return ids, places[:, 0]
        # A vocabulary may spell a special token by merges or as a piece: cut within its letters.
        for begin, end in forbidden.tolist():
            if end - begin < 2:
                raise InputError(
                    f"{self.path}: {text[begin:end]!r} in the text would become a special token: "
                    "choose another special token, or another tokenizer"
                )
        cuts = [0, *(forbidden[:, 0] + 1).tolist(), len(text)]
        return self._encode_in_a_row(text[begin:end] for begin, end in pairwise(cuts))

    def _encode_in_a_row(self, parts: Iterable[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        ids, places, before = [], [], 0
        for part in parts:
            found = self._encode_with_places(part)
            ids.append(found[0])
            places.append(found[1] + before)
            before += len(part)
        return np.concatenate(ids), np.concatenate(places)

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
        special: Which tokens are special, by role (`{"eos": "<|endoftext|>"}`); where it says
            nothing, the file decides, then a `tokenizer_config.json` beside it, then the usual
            names.

    Raises:
        InputError: It is no `tokenizer.json`, or nothing tells which token ends a document.
    """
    content = path.read_bytes()
    try:
        values = json.loads(content)
        vocabulary = _vocabulary(values)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a tokenizer.json: name another file") from error
    roles = choose_roles(path, values, vocabulary, special or {})
    if remember_roles(values, roles, vocabulary):
        # The choice becomes part of the file, so that a copy alone gives the same ids.
        content = json.dumps(values, ensure_ascii=False, indent=2).encode()
    return HuggingFaceTokenizer(path, content, values, SpecialIds(**roles))


def encoder_of(values: Mapping[str, Any], path: Path) -> Callable[[str], list[int]]:
    """Builds the tokenizer of a `tokenizer.json`, as a function from a text to its ids.

    Raises:
        InputError: The library cannot read them.
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
    """The characters that stand for the bytes 0 to 255 in byte-level vocabularies.

    Those of Radford et al. 2019 (GPT-2): a printable byte is its Latin-1 character, and the others
    are U+0100 onwards in their order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _build(values: Mapping[str, Any], path: Path) -> Any:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(values))
    except Exception as error:  # The library raises nothing narrower.
        raise InputError(
            f"{path}: tokenizers {tokenizers.__version__} cannot read it: {error}"
        ) from error
    for token in values["added_tokens"]:
        found = tokenizer.token_to_id(token["content"])
        if found != token["id"]:
            raise InputError(
                f"{path}: {token['content']} has the id {token['id']}, which the tokenizers "
                f"library reads as {found}: number the added tokens behind the vocabulary, in a row"
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
