"""megatron-core's layer specs, with our norms, attention and rotary embeddings."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig

from bigtrain.config import RunConfig
from bigtrain.models.norm import NORMS, AddThenNorm, Norm
from bigtrain.models.rotary import RotarySelfAttention, rotate

LayerSpecs = Mapping[str, Callable[[], ModuleSpec]]
"""For each value of train.kernels, a function that returns megatron-core's spec of one layer."""


def chunk_layers(
    run: RunConfig,
    config: TransformerConfig,
    *,
    chunk: int | None,
    specs: LayerSpecs,
    core_attention: Callable[..., torch.nn.Module],
) -> TransformerBlockSubmodules:
    """The specs of the layers of one chunk of this rank, and of the norm after the last layer.

    Args:
        run: The run's config.
        config: The run, translated into megatron-core's config.
        chunk: The number of the chunk on this rank; None if each rank has one chunk.
        specs: The layer specs of this model family.
        core_attention: Builds the module that computes softmax(QKᵀ)V in a layer.
    """
    norm, _ = NORMS[run.model.norm]
    layer = _replace_modules(specs[run.train.kernels](), run, core_attention)
    if run.model.norm_position == "post":
        _move_norms(layer, config, norm)
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config, vp_stage=chunk),
        layer_norm=norm if run.model.norm_position == "pre" else None,
    )


def _replace_modules(
    layer: ModuleSpec, run: RunConfig, core_attention: Callable[..., torch.nn.Module]
) -> ModuleSpec:
    norm, head_norm = NORMS[run.model.norm]
    if run.train.kernels == "torch":
        # Transformer Engine computes these norms within its linear layers.
        layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = norm
    attention = layer.submodules.self_attention
    attention.submodules.core_attention = core_attention
    if run.model.qk_norm:
        attention.submodules.q_layernorm = attention.submodules.k_layernorm = head_norm
    if run.model.positions == "rope":
        attention.module = _rotary_attention(compiled=run.train.compile)
    return layer


def _move_norms(layer: ModuleSpec, config: TransformerConfig, norm: Norm) -> None:
    """Puts the norms of a layer after its blocks and their residuals."""
    parts = layer.submodules
    parts.input_layernorm = parts.pre_mlp_layernorm = IdentityOp
    after = ModuleSpec(module=AddThenNorm, params={"config": config, "norm": norm})
    parts.self_attn_bda = parts.mlp_bda = after
    parts.sharded_state_dict_keys_map = {
        "self_attn_bda.norm.": "self_attention.post_layernorm.",
        "mlp_bda.norm.": "mlp.post_layernorm.",
    }


def _rotary_attention(*, compiled: bool) -> type[RotarySelfAttention]:
    if not compiled:
        return RotarySelfAttention
    rotation: Any = staticmethod(torch.compile(rotate))
    return type("CompiledRotarySelfAttention", (RotarySelfAttention,), {"rotation": rotation})
