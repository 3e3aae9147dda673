"""SentencePiece and Hugging Face tokenizers: text to token ids and back, exactly."""

from data_tools.tokenizer.export_check import HARD_TEXTS, check_exportable, equally_likely
from data_tools.tokenizer.loading import load_tokenizer
from data_tools.tokenizer.sentencepiece import TokenizerKind, train_tokenizer
from data_tools.tokenizer.special_tokens import SpecialIds
from data_tools.tokenizer.tokenizer_interface import Tokenizer, printable

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
