"""Builds transformer layers: megatron-core's, with bigtrain's norms, attention and rotation."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig

from bigtrain.config import RunConfig
from bigtrain.models.norm import NORMS
from bigtrain.models.rotary import RotarySelfAttention, rotate

LayerSpecs = Mapping[str, Callable[[], ModuleSpec]]
"""For each value of train.kernels, makes megatron-core's description of one layer."""


def chunk_layers(
    run: RunConfig,
    config: TransformerConfig,
    *,
    chunk: int | None,
    specs: LayerSpecs,
    core_attention: Callable[..., torch.nn.Module],
) -> TransformerBlockSubmodules:
    """The layers of one chunk of this rank, and the norm after the last.

    Args:
        run: The run.
        config: The same as megatron-core's config.
        chunk: Which of this rank's chunks; None if each rank has one chunk.
        specs: megatron-core's descriptions of this model's layers.
        core_attention: Makes the module that computes softmax(QKᵀ)V.
    """
    norm, _ = NORMS[run.model.norm]
    layer = _complete(specs[run.train.kernels](), run, core_attention)
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config, vp_stage=chunk),
        layer_norm=norm,
    )


def _complete(
    layer: ModuleSpec, run: RunConfig, core_attention: Callable[..., torch.nn.Module]
) -> ModuleSpec:
    norm, head_norm = NORMS[run.model.norm]
    if run.train.kernels == "torch":
        # Transformer Engine has the norms inside its linear layers.
        layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = norm
    attention = layer.submodules.self_attention
    attention.submodules.core_attention = core_attention
    if run.model.qk_norm:
        attention.submodules.q_layernorm = attention.submodules.k_layernorm = head_norm
    if run.model.positions == "rope":
        attention.module = _rotary_attention(compiled=run.train.compile)
    return layer


def _rotary_attention(*, compiled: bool) -> type[RotarySelfAttention]:
    if not compiled:
        return RotarySelfAttention
    rotation: Any = staticmethod(torch.compile(rotate))
    return type("CompiledRotarySelfAttention", (RotarySelfAttention,), {"rotation": rotation})
