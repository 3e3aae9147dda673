"""Text becomes a tokenizer, token tars and a manifest. Never imports torch by itself."""
