"""Text to token ids and back, exactly. The one module that knows SentencePiece.

Ids 0 to 70 are control symbols, which no text can ever become: `<pad>` 0, `<s>` 1 (bos), `</s>` 2
(eos), `<unk>` 3 (never produced, because unknown characters fall back to bytes), `<cls>` 4,
`<sep>` 5, `<mask>` 6, and 64 spare ones for what comes later. Then the 256 bytes, then pieces.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.errors import InputError
from data_tools.files import write_file

TokenizerKind = Literal["bpe", "unigram"]

NUM_SPARE = 64
_CONTROL_PIECES = ["<cls>", "<sep>", "<mask>", *(f"<spare_{i}>" for i in range(NUM_SPARE))]
_SPACE_MARK = "\u2581"  # SentencePiece writes a blank as this character.
_CHUNK_CHARACTERS = 4096
# Ways to cut text into words with the blanks before them, finest first, each with what a piece
# that reaches from one word into the next would hold.
_WORDS = [
    (
        re.compile(r" *[^\W\d_]+| *(?:[^\w ]++|[\d_]++)+| +"),
        re.compile(r"[^M]M|[^\W\d_][\W\d_]|(?!M)[\W\d_][^\W\d_]".replace("M", _SPACE_MARK)),
    ),
    (re.compile(r" *[^ ]+| +"), re.compile(r"[^M]M".replace("M", _SPACE_MARK))),
]
_REMEMBERED_CHARACTERS = 32
_REMEMBERED_WORDS = 1 << 20
_NUM_THREADS = 8  # Part of the recipe: another number may train another unigram model.
_RECIPE: dict[str, Any] = {
    # What makes decode(encode(text)) == text, and transformers agree on every id.
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
    "max_sentence_length": 1 << 20,  # Longer ones are dropped; chunks stay far below.
    "minloglevel": 2,
}


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """The ids that stand for no text."""

    pad: int
    bos: int
    eos: int
    unk: int
    cls: int
    sep: int
    mask: int


class Tokenizer:
    """A SentencePiece model from disk; text never becomes one of its special ids."""

    def __init__(self, path: Path, processor: Any, sha256: str, special: SpecialIds) -> None:
        self.path = path
        self.sha256 = sha256
        self.special = special
        self.vocab_size = int(processor.vocab_size())
        self._processor = processor
        marks = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE_MARK.encode()]
        self._mark_ids = np.array(marks, dtype=np.int32)
        self._word = _independent_words(processor)
        self._ids_of_word = _RememberedWords(processor)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Turns text into ids, adding nothing. `decode` gives the very same text back."""
        if _SPACE_MARK not in text:
            return self._encode_plain(text)
        # A literal U+2581 would come back as a blank, so it goes in as its three bytes.
        first, *others = text.split(_SPACE_MARK)
        ids = [self._encode_plain(first)]
        for part in others:
            ids += [self._mark_ids, self._encode_plain(part)]
        return np.concatenate(ids)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Encodes several texts, each as `encode` does."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Turns ids back into text; special ids vanish."""
        text: str = self._processor.decode([int(i) for i in ids])
        return text

    def piece(self, token_id: int) -> str:
        """Names one id, as `▁the`, `<0x0A>` or `<mask>`."""
        if not 0 <= token_id < self.vocab_size:
            raise InputError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        piece: str = self._processor.id_to_piece(int(token_id))
        return piece

    def _encode_plain(self, text: str) -> NDArray[np.int32]:
        words = self._word.findall(text) if self._word else [text]
        found = map(self._ids_of_word.__getitem__, words)
        return np.frombuffer(b"".join(found), dtype=np.int32)


class _RememberedWords(dict[str, bytes]):
    """The ids of words seen before, as bytes: four times as fast as asking SentencePiece again."""

    def __init__(self, processor: Any) -> None:
        super().__init__()
        self._processor = processor

    def __missing__(self, word: str) -> bytes:
        ids: bytes = self._processor.encode(word, return_type="numpy").tobytes()
        if len(word) <= _REMEMBERED_CHARACTERS:
            if len(self) >= _REMEMBERED_WORDS:
                self.clear()
            self[word] = ids
        return ids


def _independent_words(processor: Any) -> re.Pattern[str] | None:
    # Where no piece reaches from one word into the next and nothing is put before a text, the ids
    # of a text are those of its words in a row.
    if len(processor.encode("\t")) != 1:
        return None
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


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads a tokenizer model.

    Raises:
        InputError: There is no such file, it is no SentencePiece model, or it lacks special ids.
    """
    import sentencepiece

    if not path.is_file():
        raise InputError(f"no tokenizer at {path}: make one with `bigtrain data tokenizer`")
    model = path.read_bytes()
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise InputError(f"{path} is not a SentencePiece model") from error
    return Tokenizer(path, processor, hashlib.sha256(model).hexdigest(), _special(processor, path))


def train_tokenizer(
    texts: Iterable[str],
    out: Path,
    *,
    vocab_size: int,
    kind: TokenizerKind = "bpe",
    seed: int = 0,
) -> Tokenizer:
    """Trains a SentencePiece model and writes it to `out`; equal texts give equal bytes.

    Line ends are part of the pieces (`):` with its newline is one token), which source code likes.

    Args:
        texts: Documents of any length.
        out: The model file to write, replacing what is there.
        vocab_size: Number of ids, special ones and bytes included.
        kind: `bpe`, or `unigram` (slower to train; transformers reads only `bpe` exactly).
        seed: Seeds SentencePiece's own sampling.

    Raises:
        InputError: There is no text, or it cannot give `vocab_size` pieces.
    """
    import sentencepiece

    chunks = _chunks(texts)
    first = next(chunks, None)
    if first is None:
        raise InputError("there is no text to train a tokenizer on: name other files")
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chain([first], chunks),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=kind,
            **_RECIPE,
        )
    except RuntimeError as error:
        raise _explain(error, vocab_size) from error
    write_file(out, model.getvalue())
    return load_tokenizer(out)


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for start in range(0, len(text), _CHUNK_CHARACTERS):
            yield text[start : start + _CHUNK_CHARACTERS]


def _explain(error: RuntimeError, vocab_size: int) -> Exception:
    message = str(error)
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
    return error


def _special(processor: Any, path: Path) -> SpecialIds:
    ids = {
        "pad": processor.pad_id(),
        "bos": processor.bos_id(),
        "eos": processor.eos_id(),
        "unk": processor.unk_id(),
        "cls": processor.piece_to_id("<cls>"),
        "sep": processor.piece_to_id("<sep>"),
        "mask": processor.piece_to_id("<mask>"),
    }
    missing = [
        name for name, i in ids.items() if i < 0 or (name != "unk" and not processor.is_control(i))
    ]
    if missing:
        raise InputError(
            f"{path} reserves no id for {', '.join(missing)}: "
            "train a tokenizer with `bigtrain data tokenizer`"
        )
    return SpecialIds(**ids)
