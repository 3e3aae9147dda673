"""Which of transformers' classes a model of ours is: the one place that knows them all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForPreTraining, PreTrainedConfig

from bigtrain.config.model import ModelConfig
from bigtrain.config.model_kinds import ModelKind
from bigtrain.convert.bert import bert_config, bert_rules
from bigtrain.convert.gpt2 import gpt2_config, gpt2_rules
from bigtrain.convert.llama import llama_config, llama_rules, qwen3_config
from bigtrain.convert.mapping import Rule
from data_tools.tokenizer import SpecialIds


class ExportError(ValueError):
    """The export was refused; the message is one line and says why. Nothing is left behind."""


@dataclass(frozen=True, slots=True)
class Family:
    """How a kind of model becomes one of transformers'."""

    config: Callable[[ModelConfig, SpecialIds], PreTrainedConfig]
    rules: Callable[[ModelConfig], tuple[Rule, ...]]
    loader: Any
    """The Auto class that reads an export of it."""
    generates: bool = True


GPT2 = Family(gpt2_config, gpt2_rules, AutoModelForCausalLM)
LLAMA = Family(llama_config, llama_rules, AutoModelForCausalLM)
QWEN3 = Family(qwen3_config, llama_rules, AutoModelForCausalLM)
BERT = Family(bert_config, bert_rules, AutoModelForPreTraining, generates=False)


def family_of(model: ModelConfig) -> Family:
    """The family of a model.

    Raises:
        ExportError: transformers has no class for this combination.
    """
    return _FAMILIES[model.kind](model)


def _gpt_family(model: ModelConfig) -> Family:
    has_groups = model.kv_heads != model.num_heads
    match (model.positions, model.norm, model.activation, model.qk_norm):
        case ("learned", "layernorm", "gelu", False) if model.biases and not has_groups:
            return GPT2
        case ("rope", "rmsnorm", "swiglu", False):
            return LLAMA
        case ("rope", "rmsnorm", "swiglu", True) if not model.biases:
            return QWEN3
    raise ExportError(
        f"transformers has no class for a GPT with positions={model.positions}, "
        f"norm={model.norm}, activation={model.activation}, biases={str(model.biases).lower()}, "
        f"qk_norm={str(model.qk_norm).lower()} and {model.kv_heads} key heads of "
        f"{model.num_heads}; it has GPT-2's style, Llama's, and Llama's with qk_norm and no biases"
    )


_FAMILIES: Mapping[ModelKind, Callable[[ModelConfig], Family]] = {
    "gpt": _gpt_family,
    "bert": lambda _: BERT,
}


@torch.no_grad()
def outputs_of(theirs: Any, model: ModelConfig, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What transformers' model says of tokens: logits, and a BERT's sentence logits.

    Args:
        theirs: The loaded model.
        model: Its config on our side.
        tokens: ``[batch, sequence]``; to a BERT, the second half is the second sentence.
    """
    if not model.traits.reads_pairs:
        return (theirs(tokens).logits,)
    found = theirs(
        tokens, attention_mask=torch.ones_like(tokens), token_type_ids=halves_as_types(tokens)
    )
    return found.prediction_logits, found.seq_relationship_logits


def halves_as_types(tokens: torch.Tensor) -> torch.Tensor:
    """Token types with which a text stands for a sentence pair: 0 in its first half, then 1."""
    types = torch.zeros_like(tokens)
    types[:, (tokens.shape[1] + 1) // 2 :] = 1
    return types
