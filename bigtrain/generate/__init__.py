"""Continues texts, holds conversations and fills masked tokens with transformers."""
