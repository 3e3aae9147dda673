"""Folders of random transformers models, as save_pretrained writes them, with a tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

VOCAB_SIZE = 500
_SMALL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2, "head_dim": 8}
_BERT = {**_SMALL, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_GPT2 = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_inner": 96,
    "n_positions": 32,
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", _GPT2),
    "gpt2 untied": ("GPT2LMHeadModel", {**_GPT2, "tie_word_embeddings": False}),
    "llama tied": ("LlamaForCausalLM", {**_GROUPED, "tie_word_embeddings": True}),
    "llama untied": (
        "LlamaForCausalLM",
        {
            **_SMALL,
            "tie_word_embeddings": False,
            "rope_parameters": _ROPE,
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "qwen3": ("Qwen3ForCausalLM", {**_GROUPED, "tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", {**_GROUPED, "sliding_window": 32}),
    "bert": ("BertForPreTraining", _BERT),
    "bert untied": ("BertForPreTraining", {**_BERT, "tie_word_embeddings": False}),
    "megatron-bert": ("MegatronBertForPreTraining", _BERT),
    "megatron-bert untied": (
        "MegatronBertForPreTraining",
        {**_BERT, "tie_word_embeddings": False},
    ),
}
"""The class of transformers, and its config."""


def save_random(
    name: str,
    folder: Path,
    *,
    tokenizer: Path,
    dtype: str = "float32",
    architecture: str | None = None,
    **options: Any,
) -> None:
    """Saves a random model; for ``run_ranks``.

    Args:
        name: A key of ``MODELS``.
        folder: The folder to write.
        tokenizer: Copied into it.
        dtype: The type of its weights.
        architecture: A class with other heads, or none; by default that of ``MODELS``.
        options: For save_pretrained.
    """
    import torch
    import transformers

    kind, values = MODELS[name]
    model_class = getattr(transformers, architecture or kind)
    torch.manual_seed(3)
    model = model_class(model_class.config_class(**values))
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms and biases, too, so that every tensor matters.
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(folder, **options)
    shutil.copy(tokenizer, folder / "tokenizer.model")


def change_config(folder: Path, **values: Any) -> None:
    """Changes keys of a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def tensors_of(folder: Path) -> dict[str, Any]:
    """All tensors of a folder by name, as numpy arrays; bf16 as its bits."""
    import torch
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            is_small = tensor.dtype == torch.bfloat16
            found[name] = (tensor.view(torch.int16) if is_small else tensor).numpy()
    return found


def change_tensors(folder: Path, change: Any) -> None:
    """Applies a function to the dict of tensors of a folder with one file, in place."""
    import torch
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    with torch.no_grad():
        change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
