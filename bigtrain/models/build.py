"""Builds this rank's chunks of a model on the meta device, and then allocates their weights."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.config.model_kinds import ModelKind
from bigtrain.models.bert import bert_chunk
from bigtrain.models.gpt import gpt_chunk
from bigtrain.models.translate import megatron_config
from bigtrain.parallel import groups

_CHUNK_BUILDERS: Mapping[ModelKind, Callable[..., Any]] = {"gpt": gpt_chunk, "bert": bert_chunk}


def build_chunks(config: RunConfig, layout: Layout) -> list[Any]:
    """Builds this rank's chunks of the model on the meta device: shapes and types, no memory.

    Args:
        config: The run.
        layout: The layout; the process groups must exist.

    Returns:
        parallel.virtual_pipeline modules of megatron-core, in the order in which a microbatch
        passes them; each has ``config``, ``model_type``, ``vp_stage`` and ``set_input_tensor``.
        A GPT is called with tokens, positions and documents, a BERT with tokens, padding mask and
        token types.
    """
    translated = megatron_config(config, layout)
    build_chunk = _CHUNK_BUILDERS[config.model.kind]
    chunks: list[int | None] = (
        list(range(layout.virtual_pipeline)) if layout.virtual_pipeline > 1 else [None]
    )
    modules = []
    with torch.device("meta"):
        for chunk in chunks:
            first, last = groups.is_first_stage(chunk), groups.is_last_stage(chunk)
            module = build_chunk(config, translated, chunk=chunk, first=first, last=last)
            # Embeddings and heads of torch's own classes are created in fp32.
            modules.append(module.to(translated.params_dtype))
    if config.model.tie_embeddings and layout.pipeline > 1 and last:
        # The first stage has the same weight: the gradient norm counts it once.
        modules[-1].shared_embedding_or_output_weight().ds_pipe_replicated = True
    return modules


def materialize(
    module: torch.nn.Module,
    device: torch.device,
    *,
    after_each: Callable[[torch.nn.Parameter], None] | None = None,
) -> None:
    """Allocates each meta parameter, without values, and keeps its attributes.

    Args:
        module: Its parameters are replaced.
        device: Where they are allocated.
        after_each: Called with each new parameter before the next one is allocated; it may
            partition the parameter, so that no rank ever holds all of the model.
    """
    for submodule in module.modules():
        for name, meta in list(submodule._parameters.items()):
            if meta is None:
                continue
            parameter = torch.nn.Parameter(torch.empty(meta.shape, dtype=meta.dtype, device=device))
            parameter.__dict__.update(meta.__dict__)
            submodule._parameters[name] = parameter
            if after_each is not None:
                after_each(parameter)
        assert not any(
            buffer.is_meta for buffer in submodule._buffers.values() if buffer is not None
        )
