"""Text to token ids and back, exactly: SentencePiece and Hugging Face tokenizers live here."""

from data_tools.tokenizer.base import Tokenizer, printable
from data_tools.tokenizer.loading import load_tokenizer
from data_tools.tokenizer.sentencepiece import TokenizerKind, train_tokenizer
from data_tools.tokenizer.special import SpecialIds
from data_tools.tokenizer.unigram import unigram_json

__all__ = [
    "SpecialIds",
    "Tokenizer",
    "TokenizerKind",
    "load_tokenizer",
    "printable",
    "train_tokenizer",
    "unigram_json",
]
