"""Checkpoints to Hugging Face folders and back, verified; text generation."""

from transformers.utils import logging as transformers_logging

# Its progress bars and hints (such as about long texts) are not about the export.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
