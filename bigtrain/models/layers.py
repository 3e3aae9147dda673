"""The modules of a layer: megatron-core's, with bigtrain's norms, attention and rotation."""

import copy
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from megatron.core.models.bert.bert_layer_specs import (
    bert_layer_local_spec,
    get_bert_layer_with_transformer_engine_spec,
)
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig

from bigtrain.config import ConfigError, RunConfig
from bigtrain.models.attention import CausalAttention, PaddedAttention
from bigtrain.models.documents import DocumentMasks
from bigtrain.models.norm import NORMS
from bigtrain.models.rotary import RotarySelfAttention, rotate

_SPECS: dict[str, dict[str, Callable[[], ModuleSpec]]] = {
    "torch": {
        "gpt": get_gpt_layer_local_spec,
        # megatron-core has one shared object, which is edited below.
        "bert": lambda: copy.deepcopy(bert_layer_local_spec),
    },
    "transformer_engine": {
        "gpt": get_gpt_layer_with_transformer_engine_spec,
        "bert": get_bert_layer_with_transformer_engine_spec,
    },
}


def chunk_layers(
    run: RunConfig, config: TransformerConfig, *, chunk: int | None
) -> TransformerBlockSubmodules:
    """The layers of one chunk of this rank, and the norm after the last.

    Args:
        run: The run.
        config: The same as megatron-core's config.
        chunk: The number of the chunk on this rank; None if each rank has one chunk.

    Raises:
        ConfigError: Transformer Engine is required but not installed.
    """
    norm, _ = NORMS[run.model.norm]
    return TransformerBlockSubmodules(
        layer_specs=[_layer(run)] * get_num_layers_to_build(config, vp_stage=chunk),
        layer_norm=norm,
    )


def _layer(run: RunConfig) -> ModuleSpec:
    kernels = run.train.kernels
    if kernels == "transformer_engine" and find_spec("transformer_engine") is None:
        raise ConfigError(
            "train.kernels=transformer_engine: Transformer Engine is not installed; install "
            "transformer-engine[pytorch], or set train.kernels=torch"
        )
    layer = _SPECS[kernels][run.model.kind]()
    norm, head_norm = NORMS[run.model.norm]
    if kernels == "torch":
        # Transformer Engine computes these norms within its linear layers.
        layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = norm
    attention = layer.submodules.self_attention
    attention.submodules.core_attention = _core_attention(run)
    if run.model.qk_norm:
        attention.submodules.q_layernorm = attention.submodules.k_layernorm = head_norm
    if run.model.positions == "rope":
        attention.module = _rotary_attention(compiled=run.train.compile)
    return layer


def _core_attention(run: RunConfig) -> Callable[..., torch.nn.Module]:
    if run.model.kind == "bert":
        return PaddedAttention
    return partial(CausalAttention, masks=DocumentMasks())


def _rotary_attention(*, compiled: bool) -> type[RotarySelfAttention]:
    if not compiled:
        return RotarySelfAttention
    rotation: Any = staticmethod(torch.compile(rotate))
    return type("CompiledRotarySelfAttention", (RotarySelfAttention,), {"rotation": rotation})
