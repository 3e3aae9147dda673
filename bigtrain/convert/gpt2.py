"""GPT in the style of GPT-2, as transformers' GPT2LMHeadModel."""

from typing import Any

from transformers import GPT2Config

from bigtrain.config.model import ModelConfig
from bigtrain.convert.mapping import (
    FusedQkv,
    Identity,
    PaddedRows,
    Rule,
    Transposed,
    identity_rules,
)
from bigtrain.convert.model_section import common_dropout, refuse_others
from bigtrain.convert.special_ids import ids_of_model
from data_tools.tokenizer import SpecialIds

ARCHITECTURE = "GPT2LMHeadModel"


def gpt2_config(model: ModelConfig, special: SpecialIds) -> GPT2Config:
    """The model's config as transformers' config."""
    return GPT2Config(
        architectures=[ARCHITECTURE],
        vocab_size=model.vocab_size,
        n_positions=model.max_sequence_length,
        n_embd=model.hidden_size,
        n_layer=model.num_layers,
        n_head=model.num_heads,
        n_inner=model.feed_forward_size,
        activation_function="gelu_pytorch_tanh",
        layer_norm_epsilon=model.norm_epsilon,
        initializer_range=model.init_std,
        resid_pdrop=model.dropout,
        embd_pdrop=model.dropout,
        attn_pdrop=model.dropout,
        tie_word_embeddings=model.tie_embeddings,
        **ids_of_model("gpt", special),
    )


def gpt2_model(config: GPT2Config) -> dict[str, Any]:
    """transformers' config as the model section of a run's config.

    Raises:
        ImportRefusal: It asks for something that our model cannot compute.
    """
    # Both names are the tanh approximation of GELU.
    refuse_others(config, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    return {
        "kind": "gpt",
        "num_layers": config.n_layer,
        "hidden_size": config.n_embd,
        "num_heads": config.n_head,
        "ffn_hidden_size": config.n_inner or 4 * config.n_embd,
        "vocab_size": config.vocab_size,
        "max_sequence_length": config.n_positions,
        "tie_embeddings": config.tie_word_embeddings,
        "dropout": common_dropout(config, "resid_pdrop", "embd_pdrop", "attn_pdrop"),
        "norm_epsilon": config.layer_norm_epsilon,
        "init_std": config.initializer_range,
    }


def gpt2_rules(model: ModelConfig) -> tuple[Rule, ...]:
    """For each tensor of a GPT checkpoint, the tensor of GPT2LMHeadModel."""
    layer, block = "decoder.layers.{i}", "transformer.h.{i}"
    qkv = FusedQkv(model.num_heads)
    rows = PaddedRows(model.vocab_size, model.padded_vocab_size)
    rules = (
        Rule("embedding.word_embeddings.weight", "transformer.wte.weight", rows),
        Rule("embedding.position_embeddings.weight", "transformer.wpe.weight", Identity()),
        *identity_rules(f"{layer}.self_attention.linear_qkv.layer_norm_", f"{block}.ln_1."),
        Rule(f"{layer}.self_attention.linear_qkv.weight", f"{block}.attn.c_attn.weight", qkv),
        Rule(f"{layer}.self_attention.linear_qkv.bias", f"{block}.attn.c_attn.bias", qkv),
        *_linear(f"{layer}.self_attention.linear_proj", f"{block}.attn.c_proj"),
        *identity_rules(f"{layer}.mlp.linear_fc1.layer_norm_", f"{block}.ln_2."),
        *_linear(f"{layer}.mlp.linear_fc1", f"{block}.mlp.c_fc"),
        *_linear(f"{layer}.mlp.linear_fc2", f"{block}.mlp.c_proj"),
        *identity_rules("decoder.final_layernorm.", "transformer.ln_f."),
    )
    if model.tie_embeddings:
        return rules
    return (*rules, Rule("output_layer.weight", "lm_head.weight", rows))


def _linear(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{ours}.weight", f"{theirs}.weight", Transposed()),
        Rule(f"{ours}.bias", f"{theirs}.bias", Identity()),
    )
