"""SentencePiece models: loading and training them, encoding and decoding exactly.

In a model trained here, ids 0 to 70 are control symbols, which no text can become: `<pad>` 0, `<s>`
1 (bos), `</s>` 2 (eos), `<unk>` 3 (never produced, because unknown characters become bytes),
`<cls>` 4, `<sep>` 5, `<mask>` 6, and 64 spare ones for later use. The 256 bytes follow, then the
pieces.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.errors import InputError
from data_tools.files import write_file
from data_tools.tokenizer.sentencepiece_model_file import round_scores
from data_tools.tokenizer.sentencepiece_to_json import sentencepiece_json
from data_tools.tokenizer.special_tokens import NONE, ROLES, USUAL_NAMES, SpecialIds
from data_tools.tokenizer.tokenizer_interface import (
    check_id,
    cut_at_raw_bytes,
    has_surrogates,
    move_spaces,
    round_trips,
    text_of,
)
from data_tools.tokenizer.word_starts import starts_word

TokenizerKind = Literal["bpe", "unigram"]

NUM_SPARE = 64
_CONTROL_PIECES = ["<cls>", "<sep>", "<mask>", *(f"<spare_{i}>" for i in range(NUM_SPARE))]
_SPACE_MARK = "\u2581"  # SentencePiece writes a space as this character.
_MARKS = re.compile(f"({_SPACE_MARK}+)")
# Concatenated protobuf messages are merged. These set normalizer_spec.add_dummy_prefix = false, and
# .remove_extra_whitespaces = false.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
_KEEP_EXTRA_WHITESPACES = b"\x1a\x02\x20\x00"
_CHUNK_CHARACTERS = 4096
_SHORT_CHARACTERS = 1 << 20
_WHOLE_MATCH = itemgetter(0)
# Ways to cut text into words with the spaces before them, shortest words first; each with a pattern
# that matches a piece with parts of two words.
_WORDS = [
    (
        re.compile(r" *[^\W\d_]+| *(?:[^\w ]++|[\d_]++)+| +"),
        re.compile(r"[^M]M|[^\W\d_][\W\d_]|(?!M)[\W\d_][^\W\d_]".replace("M", _SPACE_MARK)),
    ),
    (re.compile(r" *[^ ]+| +"), re.compile(r"[^M]M".replace("M", _SPACE_MARK))),
]
_MAX_CACHED_CHARACTERS = 32
_MAX_CACHED_WORDS = 1 << 20
_CHARACTERS_PER_SPACE = 1000  # A character this frequent is always within the character coverage.
_NUM_THREADS = 8  # Another number may train another unigram model.
_NO_TEXT = "there is no text to train a tokenizer on: give other files"
_TRAINER_OPTIONS: dict[str, Any] = {
    # With these, decode(encode(text)) == text, and transformers gives the same ids.
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "normalization_rule_name": "identity",
    "byte_fallback": True,
    "allow_whitespace_only_pieces": True,
    "character_coverage": 0.9995,
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
    "pad_piece": "<pad>",
    "bos_piece": "<s>",
    "eos_piece": "</s>",
    "unk_piece": "<unk>",
    "control_symbols": _CONTROL_PIECES,
    "num_threads": _NUM_THREADS,
    "max_sentence_length": 1 << 20,  # Longer ones are dropped; our chunks are far shorter.
    "minloglevel": 2,
}


class SentencePieceTokenizer:
    """A SentencePiece model from disk; text never becomes one of its special ids.

    Models made elsewhere keep their own ids. A model that normalizes text or drops spaces is used
    unchanged, and `exact` is False.
    """

    kind: Literal["sentencepiece"] = "sentencepiece"
    file_name = "tokenizer.model"

    def __init__(self, path: Path, content: bytes, processor: Any, special: SpecialIds) -> None:
        self.path = path
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.special = special
        self.vocab_size = int(processor.vocab_size())
        self._processor = processor
        self._contents = [_content(processor, i) for i in range(self.vocab_size)]
        bytes_in_order = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self._byte_ids = np.array(bytes_in_order, dtype=np.int32)
        self._word: re.Pattern[str] | None
        self._has_dummy_prefix = self._contents[processor.encode("a")[0]].startswith(b" ")
        if self._has_dummy_prefix:  # `encode` adds it instead, so that texts can be cut.
            self._encode_with(_load(content + _NO_DUMMY_PREFIX), " ")
        else:
            self._encode_with(processor, "")
        self.exact = round_trips(lambda text: self.decode(self.encode(text)))
        if not self.exact:
            self._encode_with(processor, "")
        else:
            self._word = _independent_words(processor)

    def _encode_with(self, processor: Any, prefix: str) -> None:
        self._prefix = prefix
        self._word = None
        self._ids_of_word = _WordCache(processor)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Turns text into ids, adding nothing. `decode` gives back exactly the same text.

        Raises:
            InputError: The text has half a character (a lone surrogate).
        """
        return self._encode(text, self._prefix)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Encodes several texts, each as `encode` does."""
        return [self.encode(text) for text in texts]

    def encode_parts(self, parts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Encodes the parts of one text, such as sentences; together the ids decode to the text.

        Spaces at the end of a part are moved to the next part, because they belong to its first
        word.
        """
        ids, prefix = [], self._prefix
        for part in move_spaces(parts):
            ids.append(self._encode(part, prefix))
            prefix = "" if part else prefix
        return ids

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Turns ids back into text; special ids become nothing."""
        contents = self._contents
        found = b"".join([contents[check_id(i, self.vocab_size)] for i in ids])
        if self._has_dummy_prefix and found.startswith(b" "):
            found = found[1:]
        return text_of(found)

    def piece(self, token_id: int) -> str:
        """The text of one id in the vocabulary, such as `▁the`, `<0x0A>` or `<mask>`."""
        piece: str = self._processor.id_to_piece(check_id(token_id, self.vocab_size))
        return piece

    def special_ids(self) -> list[int]:
        """All ids that represent no text, including spare ones and unknown."""
        is_byte, processor = self._processor.is_byte, self._processor
        return [i for i in range(self.vocab_size) if _is_symbol(processor, i) and not is_byte(i)]

    def word_starts(self) -> NDArray[np.bool_]:
        """For every id `[vocab_size]`, whether it begins a word; single ASCII bytes do."""
        is_byte = self._processor.is_byte
        found = [
            (is_byte(i) and content[0] < 0x80) or starts_word(content)
            for i, content in enumerate(self._contents)
        ]
        return np.array(found, dtype=np.bool_)

    def tokenizer_json(self) -> dict[str, Any] | None:
        """The `tokenizer.json` that gives the same ids; None if it cannot express the model."""
        plain = _load(self.content + _NO_DUMMY_PREFIX + _KEEP_EXTRA_WHITESPACES)
        return sentencepiece_json(self.content, lambda text: list(plain.encode(text, out_type=str)))

    def _encode(self, text: str, prefix: str) -> NDArray[np.int32]:
        if _SPACE_MARK in text:
            return self._encode_odd(text, prefix)
        try:
            return self._encode_plain(prefix + text if text else text)
        except (RuntimeError, TypeError, UnicodeError):  # What SentencePiece raises for surrogates.
            if not has_surrogates(text):
                raise
        return self._encode_odd(text, prefix)

    def _encode_plain(self, text: str) -> NDArray[np.int32]:
        if self._word is None:
            words: Iterable[str] = [text]
        elif len(text) <= _SHORT_CHARACTERS:
            words = self._word.findall(text)
        else:  # Slower, but a list of the words would need twenty times the memory of the text.
            words = map(_WHOLE_MATCH, self._word.finditer(text))
        found = map(self._ids_of_word.__getitem__, words)
        return np.frombuffer(b"".join(found), dtype=np.int32)

    def _encode_odd(self, text: str, prefix: str) -> NDArray[np.int32]:
        # A literal U+2581 would be decoded as a space, so it is encoded as its three bytes.
        ids = []
        for part in cut_at_raw_bytes(text):
            pieces = _MARKS.split(part) if isinstance(part, str) else [part]
            for piece in filter(None, pieces):
                if isinstance(piece, str) and not piece.startswith(_SPACE_MARK):
                    ids.append(self._encode_plain(prefix + piece))
                else:
                    raw = piece.encode() if isinstance(piece, str) else piece
                    ids.append(self._byte_ids[np.frombuffer(raw, dtype=np.uint8)])
                prefix = ""
        return np.concatenate(ids)


class _WordCache(dict[str, bytes]):
    """A cache of the ids of words, as bytes: four times faster than calling SentencePiece again."""

    def __init__(self, processor: Any) -> None:
        super().__init__()
        self._processor = processor

    def __missing__(self, word: str) -> bytes:
        ids: bytes = self._processor.encode(word, return_type="numpy").tobytes()
        if len(word) <= _MAX_CACHED_CHARACTERS:
            if len(self) >= _MAX_CACHED_WORDS:
                self.clear()
            self[word] = ids
        return ids


def _independent_words(processor: Any) -> re.Pattern[str] | None:
    # If no piece has parts of two words, and nothing is added before a text, the ids of a text are
    # the concatenated ids of its words.
    ids = range(processor.vocab_size())
    pieces = [processor.id_to_piece(i) for i in ids if not _is_symbol(processor, i)]
    for word, crossing in _WORDS:
        if not any(crossing.search(piece) for piece in pieces):
            return word
    return None


def _is_symbol(processor: Any, token_id: int) -> bool:
    return bool(
        processor.is_control(token_id)
        or processor.is_byte(token_id)
        or processor.is_unknown(token_id)
    )


def load_sentencepiece(path: Path) -> SentencePieceTokenizer:
    """Reads a SentencePiece model, trained here or elsewhere.

    Raises:
        InputError: The file is not a SentencePiece model, has no eos, or cannot encode every text.
    """
    return _read(path, path.read_bytes())


def _read(path: Path, model: bytes) -> SentencePieceTokenizer:
    try:
        processor = _load(model)
    except RuntimeError as error:
        raise InputError(
            f"{path} is neither a SentencePiece model nor a tokenizer.json: give another file"
        ) from error
    if not all(processor.is_byte(processor.piece_to_id(f"<0x{byte:02X}>")) for byte in range(256)):
        raise InputError(
            f"{path} has no byte pieces, so text outside its vocabulary would be lost: use a "
            "model with byte fallback, or train one with `bigtrain data tokenizer`"
        )
    return SentencePieceTokenizer(path, model, processor, _special(processor, path))


def _load(model: bytes) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=model)


def _content(processor: Any, token_id: int) -> bytes:
    piece: str = processor.id_to_piece(token_id)
    if processor.is_control(token_id):
        return b""
    if processor.is_byte(token_id):
        return bytes([int(piece[3:5], 16)])
    if processor.is_unknown(token_id):
        return str(processor.decode([token_id])).encode()
    return piece.replace(_SPACE_MARK, " ").encode()


def train_tokenizer(
    texts: Iterable[str],
    out: Path,
    *,
    vocab_size: int,
    kind: TokenizerKind = "bpe",
    seed: int = 0,
) -> SentencePieceTokenizer:
    """Trains a SentencePiece model and writes it to `out`; equal texts give equal bytes.

    Line ends may be part of pieces (`):` with its newline is one token), which suits source code.

    Args:
        texts: Documents of any length.
        out: The model file to write; an existing file is replaced.
        vocab_size: Number of ids, including special ids and bytes.
        kind: `bpe`, or `unigram` (slower to train).
        seed: Seeds SentencePiece's own sampling.

    Raises:
        InputError: There is no text, it cannot give `vocab_size` pieces, or texts that the model
            encodes do not decode to themselves. Then nothing is written.
    """
    import sentencepiece

    texts = list(texts)
    chunks = _chunks(texts)
    first = next(chunks, None)
    if first is None:
        raise InputError(_NO_TEXT)
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chain([first], chunks),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=kind,
            **{**_TRAINER_OPTIONS, **_required(texts)},
        )
    except RuntimeError as error:
        raise _explain(error, vocab_size) from error
    content = model.getvalue()
    tokenizer = _read(out, round_scores(content) if kind == "unigram" else content)
    if not tokenizer.exact:
        raise InputError(
            "with the trained tokenizer, some texts do not decode to themselves, so it was not "
            "saved: train it on more or on other text"
        )
    write_file(out, tokenizer.content)
    return tokenizer


def _required(texts: Sequence[str]) -> dict[str, str]:
    # If spaces are rare, the character coverage may exclude them, and then a space could not be
    # distinguished from U+2581. Otherwise the setting would only change the bytes of the model.
    characters = sum(map(len, texts))
    spaces = sum(text.count(" ") for text in texts)
    return {"required_chars": _SPACE_MARK} if spaces * _CHARACTERS_PER_SPACE < characters else {}


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        if has_surrogates(text):  # Raw bytes have ids already; only text is used for training.
            text = "".join(part for part in cut_at_raw_bytes(text) if isinstance(part, str))
        for start in range(0, len(text), _CHUNK_CHARACTERS):
            yield text[start : start + _CHUNK_CHARACTERS]


def _explain(error: RuntimeError, vocab_size: int) -> InputError:
    message = str(error)
    if "sentences_.empty()" in message or "all_chars_count" in message:
        return InputError(_NO_TEXT)
    if highest := re.search(r"value <= (\d+)", message):
        return InputError(
            f"a vocabulary of {vocab_size} is too large for this text: "
            f"the largest possible is {highest[1]}; lower --vocab-size or add text"
        )
    if lowest := re.search(r"\d+ vs (\d+)", message):
        return InputError(
            f"a vocabulary of {vocab_size} is too small for the characters of this text: "
            f"the smallest possible is {lowest[1]}; raise --vocab-size"
        )
    said = " ".join(message.split())
    return InputError(f"SentencePiece cannot train on this text ({said}): give more text")


def _special(processor: Any, path: Path) -> SpecialIds:
    ids = {role: _control(processor, role) for role in ROLES}
    ids["unk"] = processor.unk_id()
    for role in ("pad", "bos", "eos"):
        own: int = getattr(processor, f"{role}_id")()
        ids[role] = own if own != NONE else ids[role]
    if ids["eos"] == NONE:
        raise InputError(
            f"{path} has no id for eos, the end of a document: use a model with `</s>`, "
            "or train one with `bigtrain data tokenizer`"
        )
    return SpecialIds(**ids)


def _control(processor: Any, role: str) -> int:
    # Only control symbols: text can become user-defined symbols.
    found = (processor.piece_to_id(name) for name in USUAL_NAMES[role])
    return next((int(i) for i in found if processor.is_control(i)), NONE)
