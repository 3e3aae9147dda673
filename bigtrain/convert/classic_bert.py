"""BERT with norms after its blocks (Devlin et al.), as transformers' BertForPreTraining."""

from transformers import BertConfig

from bigtrain.config.model import ModelConfig
from bigtrain.convert.bert import bert_keys, common_bert_rules
from bigtrain.convert.mapping import Rule, identity_rules
from data_tools.tokenizer import SpecialIds


def classic_bert_config(model: ModelConfig, special: SpecialIds) -> BertConfig:
    """The model's config as transformers' config."""
    return BertConfig(architectures=["BertForPreTraining"], **bert_keys(model, special))


def classic_bert_rules(model: ModelConfig) -> tuple[Rule, ...]:
    """For each tensor of a BERT checkpoint, the tensor of BertForPreTraining."""
    layer, block = "encoder.layers.{i}", "bert.encoder.layer.{i}"
    return (
        *identity_rules("embedding.layer_norm.", "bert.embeddings.LayerNorm."),
        *identity_rules(
            f"{layer}.self_attention.post_layernorm.", f"{block}.attention.output.LayerNorm."
        ),
        *identity_rules(f"{layer}.mlp.post_layernorm.", f"{block}.output.LayerNorm."),
        *common_bert_rules(model),
    )
