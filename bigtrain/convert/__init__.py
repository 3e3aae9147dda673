"""Exports checkpoints as Hugging Face folders, verifies them, and generates text."""

from transformers.utils import logging as transformers_logging

# Its progress bars and hints (such as about long texts) are not about the export.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
