"""Text to token ids and back, exactly: SentencePiece and Hugging Face tokenizers live here."""

from data_tools.tokenizer.sentencepiece import (
    SpecialIds,
    Tokenizer,
    TokenizerKind,
    load_tokenizer,
    train_tokenizer,
)

__all__ = ["SpecialIds", "Tokenizer", "TokenizerKind", "load_tokenizer", "train_tokenizer"]
