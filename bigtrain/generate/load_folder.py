"""Loads a model and its tokenizer from a folder of Hugging Face, in fp32, never with pickles."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

import bigtrain.convert  # noqa: F401  Silences transformers.
from bigtrain.generate.errors import GenerationError


def load_folder(
    folder: Path, loader: Any, *, is_right: Callable[[str], str | None], name: str
) -> tuple[Any, Any]:
    """Loads a model for evaluation, and its tokenizer.

    Args:
        folder: Has config.json, weights in safetensors, and the tokenizer.
        loader: The Auto class that loads the model.
        is_right: Returns why a model of an architecture cannot be used, or None.
        name: What the user calls the model, for messages.

    Raises:
        GenerationError: The folder cannot be loaded, or the architecture cannot be used.
    """
    if not (folder / "config.json").is_file():
        raise GenerationError(f"{name}: no config.json; give a folder made by bigtrain export-hf")
    try:
        # Without the keyword transformers asks on the terminal whether to run a folder's code.
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        architecture = (config.architectures or ["model"])[0]
        if (problem := is_right(architecture)) is not None:
            raise GenerationError(f"{name}: {problem}")
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = loader.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except GenerationError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise GenerationError(f"{name}: cannot be loaded ({reason}); export it again") from error
    return model.eval(), tokenizer
