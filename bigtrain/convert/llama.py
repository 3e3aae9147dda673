"""GPT in the style of Llama, as transformers' LlamaForCausalLM or Qwen3ForCausalLM."""

from typing import Any

from transformers import LlamaConfig, MistralConfig, PreTrainedConfig, Qwen3Config

from bigtrain.config.model import ModelConfig
from bigtrain.convert.mapping import GroupedQkv, Identity, PaddedRows, Rule, identity_rules
from bigtrain.convert.model_section import refuse, refuse_others
from bigtrain.convert.special_ids import ids_of_model
from data_tools.tokenizer import SpecialIds


def llama_config(model: ModelConfig, special: SpecialIds) -> LlamaConfig:
    """The model's config as transformers' config."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        mlp_bias=model.biases,
        **_shared_keys(model, special),
    )


def qwen3_config(model: ModelConfig, special: SpecialIds) -> Qwen3Config:
    """As `llama_config`, for a model that normalizes queries and keys in each head."""
    return Qwen3Config(architectures=["Qwen3ForCausalLM"], **_shared_keys(model, special))


def llama_model(config: LlamaConfig) -> dict[str, Any]:
    """transformers' config as the model section of a run's config.

    Raises:
        ImportRefusal: It asks for something that our model cannot compute.
    """
    if config.mlp_bias != config.attention_bias:
        refuse(
            f"attention_bias={config.attention_bias} and mlp_bias={config.mlp_bias} differ, and "
            "all linear layers of bigtrain's model have biases, or none"
        )
    return {**_shared_section(config), "biases": config.mlp_bias}


def qwen3_model(config: Qwen3Config) -> dict[str, Any]:
    """As `llama_model`, for a model that normalizes queries and keys in each head."""
    refuse_others(config, "attention_bias", False)
    return {**_shared_section(config), "biases": False, "qk_norm": True}


def mistral_model(config: MistralConfig) -> dict[str, Any]:
    """As `llama_model`, for a model whose window, if it has one, is as long as its positions."""
    window = config.sliding_window
    if window is not None and window < config.max_position_embeddings:
        refuse(
            f"sliding_window={window} is shorter than max_position_embeddings="
            f"{config.max_position_embeddings}, and bigtrain's attention has no window; up to "
            f"{window} tokens the model is the same without it: set max_position_embeddings to "
            f"{window} in a copy of the folder to train at that length"
        )
    return {**_shared_section(config), "biases": False}


def llama_rules(model: ModelConfig) -> tuple[Rule, ...]:
    """For each tensor of a GPT checkpoint, the tensor of LlamaForCausalLM or Qwen3ForCausalLM."""
    layer, block = "decoder.layers.{i}", "model.layers.{i}"
    attention, norm = f"{layer}.self_attention", f"{block}.self_attn"
    rows = PaddedRows(model.vocab_size, model.padded_vocab_size)
    parts = ("weight", "bias") if model.biases else ("weight",)
    rules = (
        Rule("embedding.word_embeddings.weight", "model.embed_tokens.weight", rows),
        *identity_rules(
            f"{attention}.linear_qkv.layer_norm_", f"{block}.input_layernorm.", bias=False
        ),
        *identity_rules(
            f"{layer}.mlp.linear_fc1.layer_norm_", f"{block}.post_attention_layernorm.", bias=False
        ),
        *(rule for part in parts for rule in _linears(model, layer, block, part)),
        *identity_rules("decoder.final_layernorm.", "model.norm.", bias=False),
    )
    if model.qk_norm:
        for which in ("q", "k"):
            rules += identity_rules(
                f"{attention}.{which}_layernorm.", f"{norm}.{which}_norm.", bias=False
            )
    if model.tie_embeddings:
        return rules
    return (*rules, Rule("output_layer.weight", "lm_head.weight", rows))


def _linears(model: ModelConfig, layer: str, block: str, part: str) -> tuple[Rule, ...]:
    ours, theirs = f"{layer}.self_attention", f"{block}.self_attn"
    queries, keys = model.num_heads * model.head_dim, model.kv_heads * model.head_dim
    inner = model.feed_forward_size
    return (
        Rule(
            f"{ours}.linear_qkv.{part}",
            tuple(f"{theirs}.{name}_proj.{part}" for name in "qkv"),
            GroupedQkv(model.num_heads, model.kv_heads),
            rows=(queries, keys, keys),
        ),
        Rule(f"{ours}.linear_proj.{part}", f"{theirs}.o_proj.{part}", Identity()),
        Rule(
            f"{layer}.mlp.linear_fc1.{part}",
            tuple(f"{block}.mlp.{name}_proj.{part}" for name in ("gate", "up")),
            Identity(),
            rows=(inner, inner),
        ),
        Rule(f"{layer}.mlp.linear_fc2.{part}", f"{block}.mlp.down_proj.{part}", Identity()),
    )


def _shared_keys(model: ModelConfig, special: SpecialIds) -> dict[str, Any]:
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.feed_forward_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": model.max_sequence_length,
        "initializer_range": model.init_std,
        "rms_norm_eps": model.norm_epsilon,
        "rope_parameters": _rope_parameters(model),
        "attention_bias": model.biases,
        "attention_dropout": model.dropout,
        "tie_word_embeddings": model.tie_embeddings,
        **ids_of_model("gpt", special),
    }


def _shared_section(config: PreTrainedConfig) -> dict[str, Any]:
    refuse_others(config, "hidden_act", "silu")
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        refuse(
            f"head_dim={config.head_dim} × num_attention_heads={config.num_attention_heads} is not "
            f"hidden_size={config.hidden_size}, and the heads of bigtrain's model divide it"
        )
    keys = config.num_key_value_heads
    return {
        "kind": "gpt",
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "num_heads": config.num_attention_heads,
        "num_kv_heads": None if keys == config.num_attention_heads else keys,
        "ffn_hidden_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_sequence_length": config.max_position_embeddings,
        "positions": "rope",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "tie_embeddings": config.tie_word_embeddings,
        "dropout": config.attention_dropout,
        "norm_epsilon": config.rms_norm_eps,
        "init_std": config.initializer_range,
        **_rope_section(config.rope_parameters),
    }


def _rope_section(rope: dict[str, Any]) -> dict[str, Any]:
    values = {"rope_type": "default", **rope}
    kind, theta = values.pop("rope_type"), values.pop("rope_theta")
    if values.pop("partial_rotary_factor", 1.0) not in (None, 1.0):
        refuse(f"rope_parameters: partial_rotary_factor={rope['partial_rotary_factor']} is not 1")
    if kind not in ("default", "llama3"):
        refuse(f"rope_parameters: rope_type={kind}; bigtrain's model has default and llama3")
    section: dict[str, Any] = {"rope_theta": float(theta)}
    if kind == "llama3":
        section["rope_scaling"] = {
            "factor": float(values["factor"]),
            "low_frequency_factor": float(values["low_freq_factor"]),
            "high_frequency_factor": float(values["high_freq_factor"]),
            "original_max_sequence_length": values["original_max_position_embeddings"],
        }
    return section


def _rope_parameters(model: ModelConfig) -> dict[str, Any]:
    scaling = model.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": model.rope_theta}
    return {
        "rope_type": "llama3",
        "rope_theta": model.rope_theta,
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_max_sequence_length,
    }
