"""The class of transformers for each of bigtrain's models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForPreTraining, PreTrainedConfig

from bigtrain.config.model import ModelConfig
from bigtrain.config.model_kinds import ModelKind
from bigtrain.convert.bert import bert_config, bert_rules
from bigtrain.convert.classic_bert import classic_bert_config, classic_bert_rules
from bigtrain.convert.gpt2 import gpt2_config, gpt2_rules
from bigtrain.convert.llama import llama_config, llama_rules, qwen3_config
from bigtrain.convert.mapping import Rule
from data_tools.tokenizer import SpecialIds
from data_tools.tokenizer.special_tokens import NONE, ROLES

NO_IDS = SpecialIds(**dict.fromkeys(ROLES, NONE))


class ExportError(ValueError):
    """The export was refused; the message is one line and says why. No files are left."""


@dataclass(frozen=True, slots=True)
class Family:
    """How models of one family are exported to transformers."""

    config: Callable[[ModelConfig, SpecialIds], PreTrainedConfig]
    rules: Callable[[ModelConfig], tuple[Rule, ...]]
    loader: Any
    """The Auto class of transformers that loads an export."""
    generates: bool = True


GPT2 = Family(gpt2_config, gpt2_rules, AutoModelForCausalLM)
LLAMA = Family(llama_config, llama_rules, AutoModelForCausalLM)
QWEN3 = Family(qwen3_config, llama_rules, AutoModelForCausalLM)
BERT = Family(bert_config, bert_rules, AutoModelForPreTraining, generates=False)
CLASSIC_BERT = Family(
    classic_bert_config, classic_bert_rules, AutoModelForPreTraining, generates=False
)


def family_of(model: ModelConfig) -> Family:
    """Returns the family of a model.

    Raises:
        ExportError: transformers has no class for this combination.
    """
    return _FAMILIES[model.kind](model)


def class_of(model: ModelConfig) -> str:
    """The name of the class of transformers for a model.

    Raises:
        ExportError: transformers has no class for this combination.
    """
    config = family_of(model).config(model, NO_IDS)
    return str((config.architectures or ["?"])[0])


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
        f"{model.num_heads}; it has classes for the style of GPT-2, of Llama, and of Llama with "
        "qk_norm and without biases"
    )


_FAMILIES: Mapping[ModelKind, Callable[[ModelConfig], Family]] = {
    "gpt": _gpt_family,
    "bert": lambda model: CLASSIC_BERT if model.norm_position == "post" else BERT,
}


@torch.no_grad()
def hugging_face_outputs(
    theirs: Any, model: ModelConfig, tokens: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Runs transformers' model and returns its logits and, for BERT, its sentence logits.

    Args:
        theirs: The loaded model.
        model: bigtrain's config of the model.
        tokens: ``[batch, sequence]``; for BERT, the second half is the second sentence.

    Returns:
        ``[batch, sequence, vocabulary]``, and for BERT also ``[batch, 2]``.
    """
    if not model.traits.reads_pairs:
        return (theirs(tokens).logits,)
    found = theirs(
        tokens, attention_mask=torch.ones_like(tokens), token_type_ids=token_types_of_halves(tokens)
    )
    return found.prediction_logits, found.seq_relationship_logits


def token_types_of_halves(tokens: torch.Tensor) -> torch.Tensor:
    """Token types that make a sentence pair of a text: 0 in its first half, 1 in its second."""
    types = torch.zeros_like(tokens)
    types[:, (tokens.shape[1] + 1) // 2 :] = 1
    return types
