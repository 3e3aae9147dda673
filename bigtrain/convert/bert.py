"""BERT with norms before its blocks, as transformers' MegatronBertForPreTraining."""

from typing import Any

from transformers import BertConfig, MegatronBertConfig, PreTrainedConfig

from bigtrain.config.model import ModelConfig
from bigtrain.convert.mapping import GroupedQkv, Identity, PaddedRows, Rule, identity_rules
from bigtrain.convert.model_section import common_dropout, refuse_others
from bigtrain.convert.special_ids import ids_of_model
from data_tools.tokenizer import SpecialIds


def bert_config(model: ModelConfig, special: SpecialIds) -> MegatronBertConfig:
    """The model's config as transformers' config."""
    return MegatronBertConfig(
        architectures=["MegatronBertForPreTraining"], **bert_keys(model, special)
    )


def bert_keys(model: ModelConfig, special: SpecialIds) -> dict[str, Any]:
    """The keys of MegatronBertConfig, which BertConfig also has."""
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.feed_forward_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.dropout,
        "max_position_embeddings": model.max_sequence_length,
        "type_vocab_size": 2,
        "initializer_range": model.init_std,
        "layer_norm_eps": model.norm_epsilon,
        "tie_word_embeddings": model.tie_embeddings,
        **ids_of_model("bert", special),
    }


def bert_model(config: PreTrainedConfig) -> dict[str, Any]:
    """transformers' config as the model section of a run's config.

    Raises:
        ImportRefusal: It asks for something that our model cannot compute.
    """
    refuse_others(config, "hidden_act", "gelu")
    return {
        "kind": "bert",
        "norm_position": "post" if isinstance(config, BertConfig) else "pre",
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "num_heads": config.num_attention_heads,
        "ffn_hidden_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_sequence_length": config.max_position_embeddings,
        "tie_embeddings": config.tie_word_embeddings,
        "dropout": common_dropout(config, "hidden_dropout_prob", "attention_probs_dropout_prob"),
        "norm_epsilon": config.layer_norm_eps,
        "init_std": config.initializer_range,
    }


def bert_rules(model: ModelConfig) -> tuple[Rule, ...]:
    """For each tensor of a BERT checkpoint, the tensor of MegatronBertForPreTraining."""
    layer, block = "encoder.layers.{i}", "bert.encoder.layer.{i}"
    return (
        *identity_rules(f"{layer}.self_attention.linear_qkv.layer_norm_", f"{block}.attention.ln."),
        *identity_rules(f"{layer}.mlp.linear_fc1.layer_norm_", f"{block}.ln."),
        *identity_rules("encoder.final_layernorm.", "bert.encoder.ln."),
        *common_bert_rules(model),
    )


def common_bert_rules(model: ModelConfig) -> tuple[Rule, ...]:
    """The rules of all tensors except the norms of the body, for either position of the norms."""
    layer, block = "encoder.layers.{i}", "bert.encoder.layer.{i}"
    embeddings, head = "bert.embeddings", "cls.predictions"
    rows = PaddedRows(model.vocab_size, model.padded_vocab_size)
    rules = (
        Rule("embedding.word_embeddings.weight", f"{embeddings}.word_embeddings.weight", rows),
        *(
            Rule(f"embedding.{ours}.weight", f"{embeddings}.{theirs}.weight", Identity())
            for ours, theirs in (
                ("position_embeddings", "position_embeddings"),
                ("tokentype_embeddings", "token_type_embeddings"),
            )
        ),
        *(rule for part in ("weight", "bias") for rule in _linears(model, layer, block, part)),
        *identity_rules("lm_head.layer_norm.", f"{head}.transform.LayerNorm."),
        *identity_rules("lm_head.dense.", f"{head}.transform.dense."),
        *identity_rules("pooler.dense.", "bert.pooler.dense."),
        *identity_rules("binary_head.", "cls.seq_relationship."),
        Rule("output_layer.bias", f"{head}.bias", rows),
    )
    if model.tie_embeddings:
        return rules
    return (
        *rules,
        # With untied embeddings transformers uses the bias of the decoder.
        Rule("output_layer.bias", f"{head}.decoder.bias", rows),
        Rule("output_layer.weight", f"{head}.decoder.weight", rows),
    )


def _linears(model: ModelConfig, layer: str, block: str, part: str) -> tuple[Rule, ...]:
    return (
        Rule(
            f"{layer}.self_attention.linear_qkv.{part}",
            tuple(f"{block}.attention.self.{name}.{part}" for name in ("query", "key", "value")),
            GroupedQkv(model.num_heads, model.num_heads),
            rows=(model.hidden_size,) * 3,
        ),
        Rule(
            f"{layer}.self_attention.linear_proj.{part}",
            f"{block}.attention.output.dense.{part}",
            Identity(),
        ),
        Rule(f"{layer}.mlp.linear_fc1.{part}", f"{block}.intermediate.dense.{part}", Identity()),
        Rule(f"{layer}.mlp.linear_fc2.{part}", f"{block}.output.dense.{part}", Identity()),
    )
