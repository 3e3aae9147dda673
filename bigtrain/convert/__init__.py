"""A checkpoint as a Hugging Face folder, and the proof that it is the same model."""

from transformers.utils import logging as transformers_logging

# Its bars and hints (such as of texts longer than the model reads) say nothing about the export.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
