"""Text to token ids and back, exactly: SentencePiece and Hugging Face tokenizers live here."""

from data_tools.tokenizer.base import Tokenizer, printable
from data_tools.tokenizer.exportable import HARD_TEXTS, check_exportable, equally_likely
from data_tools.tokenizer.loading import load_tokenizer
from data_tools.tokenizer.sentencepiece import TokenizerKind, train_tokenizer
from data_tools.tokenizer.special import SpecialIds

__all__ = [
    "HARD_TEXTS",
    "SpecialIds",
    "Tokenizer",
    "TokenizerKind",
    "check_exportable",
    "equally_likely",
    "load_tokenizer",
    "printable",
    "train_tokenizer",
]
