"""Builds this rank's part of a model on the meta device, and then allocates its parameters."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.config.model_kinds import ModelKind
from bigtrain.models.bert import bert_chunk
from bigtrain.models.classifier import add_classifier
from bigtrain.models.gpt import gpt_chunk
from bigtrain.models.translate import megatron_config
from bigtrain.parallel import groups

_CHUNK_BUILDERS: Mapping[ModelKind, Callable[..., Any]] = {"gpt": gpt_chunk, "bert": bert_chunk}


def build_chunks(config: RunConfig, layout: Layout) -> list[Any]:
    """Builds this rank's chunks of the model on the meta device: shapes and types, no memory.

    Args:
        config: The run's config.
        layout: The sizes of the grid; its process groups must exist.

    Returns:
        One megatron-core module for each chunk (parallel.virtual_pipeline), in the order in which
        a microbatch passes through them; each has ``config``, ``model_type``, ``vp_stage`` and
        ``set_input_tensor``. A GPT is called with tokens, positions and documents, a BERT with
        tokens, padding mask and token types, a classifier as `add_classifier` says.
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
            if config.is_classifier:
                add_classifier(module, config, last=last)
            # Embeddings and heads of torch's own classes are created in fp32.
            modules.append(module.to(translated.params_dtype))
    is_tied = modules[-1].share_embeddings_and_output_weights
    if is_tied and layout.pipeline > 1 and last:
        # The first stage has the same weight, and the gradient norm must count it only once.
        modules[-1].shared_embedding_or_output_weight().ds_pipe_replicated = True
    return modules


def materialize(
    module: torch.nn.Module,
    device: torch.device,
    *,
    after_each: Callable[[torch.nn.Parameter], None] | None = None,
) -> None:
    """Gives each meta parameter storage, but no values, and keeps its attributes.

    Args:
        module: Its parameters are replaced.
        device: Where the storage is allocated.
        after_each: Called with each new parameter before the next one is allocated. It may free
            a part of the storage, so that a rank never holds all parameters.
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
