"""Generates text with transformers, from an export or a checkpoint."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from bigtrain.convert.export import open_checkpoint, write_model

DEFAULT_NEW_TOKENS = 64


class GenerationError(ValueError):
    """Nothing can be generated; the message is one line and says why."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int | None = None
    """If None, 64, or fewer if the model's maximum sequence length leaves fewer."""
    temperature: float = 0.8
    """With 0 the most likely token is always taken."""
    top_p: float = 0.95
    seed: int = 0


def continue_text(model: str, prompt: str, sampling: Sampling) -> str:
    """Continues ``prompt`` with an exported model or a checkpoint.

    Args:
        model: An exported folder, a checkpoint (may be a URL) or a run folder.
        prompt: See `generate`.
        sampling: See `generate`.

    Returns:
        The continuation, without the prompt.

    Raises:
        CheckpointError: There is no such checkpoint, or it is not complete.
        ExportError: transformers has no class for this model.
        GenerationError: The model cannot continue a text, or the text would be too long for it.
    """
    if (Path(model) / "config.json").is_file():
        return generate(Path(model), prompt, sampling)
    with tempfile.TemporaryDirectory(prefix="bigtrain-") as folder:
        write_model(open_checkpoint(model), Path(folder))
        return generate(Path(folder), prompt, sampling)


def generate(folder: Path, prompt: str, sampling: Sampling) -> str:
    """Continues ``prompt`` with an exported model.

    Args:
        folder: A folder that AutoModelForCausalLM and AutoTokenizer load.
        prompt: The text to continue; if it is empty, the model begins a document.
        sampling: How tokens are chosen; the same seed gives the same text.

    Returns:
        The continuation, without the prompt.

    Raises:
        GenerationError: The folder is not such a model, or the text would be too long for it.
    """
    if not (folder / "config.json").is_file():
        raise GenerationError(f"{folder}: no config.json; give a folder made by bigtrain export-hf")
    try:
        architectures = AutoConfig.from_pretrained(folder).architectures or [""]
        if not architectures[0].endswith(("CausalLM", "LMHeadModel")):
            raise GenerationError(
                f"{folder}: a {architectures[0]} predicts masked tokens and cannot continue a "
                "text; give the export of a GPT"
            )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
    except GenerationError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise GenerationError(f"{folder}: cannot be loaded ({reason}); export it again") from error
    # In training an eos stood before each document, so eos begins a document.
    encoded = tokenizer(prompt, add_special_tokens=False, split_special_tokens=True)
    ids = encoded["input_ids"] or [tokenizer.eos_token_id]
    room = model.config.max_position_embeddings - len(ids)
    wanted = sampling.max_new_tokens or max(1, min(DEFAULT_NEW_TOKENS, room))
    if room < wanted:
        raise GenerationError(
            f"the prompt has {len(ids)} tokens and --max-new-tokens is {wanted}, but the model "
            f"reads at most {model.config.max_position_embeddings} tokens; shorten the prompt or "
            "lower --max-new-tokens"
        )
    chosen = {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    torch.manual_seed(sampling.seed)
    output = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        max_new_tokens=wanted,
        **(chosen if sampling.temperature > 0 else {"do_sample": False}),
    )
    return str(tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True))
