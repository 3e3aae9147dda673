"""A checkpoint's model in one process, in fp32; Hugging Face models are compared with it."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any

import torch

from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import WEIGHT
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.checkpoint.tensor_table import box_slices
from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.config.model import ModelConfig
from bigtrain.convert.families import token_types_of_halves
from bigtrain.convert.layer_loop import loop_over_layers
from bigtrain.environment import Ranks
from bigtrain.models.build import build_chunks, materialize
from bigtrain.models.shards import Shard, shards_of
from bigtrain.parallel.groups import process_groups

_FIRST_LAYER = ".layers.0."


class CheckpointModel(AbstractContextManager["CheckpointModel"]):
    """bigtrain's model of megatron-core layers, on one CPU rank, without DeepSpeed."""

    def __init__(
        self,
        checkpoint: Folder,
        model: ModelConfig,
        *,
        layer_by_layer: bool = False,
        rounding: torch.dtype = torch.float32,
    ) -> None:
        """Loads nothing yet; the model is built and loaded on entering.

        Args:
            checkpoint: A committed checkpoint.
            model: The model of its config.
            layer_by_layer: Whether only one layer is in memory, and is read again for each call.
            rounding: The type to which the weights are rounded; they are computed with in fp32.
        """
        self._model, self._rounding = model, rounding
        self._layers = model.num_layers if layer_by_layer else None
        self._table = CheckpointReader(checkpoint)
        self._stack = ExitStack()
        self._module: Any = None
        self._shards: dict[str, list[Shard]] = {}

    def __enter__(self) -> "CheckpointModel":
        layout = Layout()
        device = torch.device("cpu")
        ranks = Ranks(rank=0, world_size=1, local_rank=0)
        self._stack.enter_context(process_groups(ranks, layout, device))
        built = self._model if self._layers is None else _with_one_layer(self._model)
        (self._module,) = build_chunks(run_of_model(built), layout)
        self._shards = shards_of(self._module)
        materialize(self._module, device)
        self._module.eval()
        if self._layers is None:
            self._load(self._names())
        else:
            self._load(name for name in self._names() if _FIRST_LAYER not in name)
            loop_over_layers(self._module, self._layers, self._load_layer)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._module = None
        self._stack.__exit__(kind, error, trace)

    @torch.no_grad()
    def outputs(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the model.

        Args:
            tokens: ``[batch, sequence]``, int64; for BERT, the second half is the second sentence.

        Returns:
            ``[batch, sequence, vocabulary]``, without the padding; and for BERT ``[batch, 2]``.
        """
        model = self._model
        if model.traits.reads_pairs:
            everywhere = torch.ones_like(tokens, dtype=torch.bool)
            logits, sentence = self._module(tokens, everywhere, token_types_of_halves(tokens))
            return logits[..., : model.vocab_size], sentence
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        return (self._module(tokens, positions, None)[..., : model.vocab_size],)

    def _names(self) -> list[str]:
        self._parameters = dict(self._module.named_parameters())
        return list(self._parameters)

    def _load_layer(self, number: int) -> None:
        self._load((name for name in self._parameters if _FIRST_LAYER in name), layer=number)

    @torch.no_grad()
    def _load(self, names: Iterable[str], *, layer: int = 0) -> None:
        for name in names:
            flat = self._parameters[name].view(-1)
            for shard in self._shards[name]:
                saved = shard.name.replace(_FIRST_LAYER, f".layers.{layer}.")
                tensor = torch.from_numpy(self._table.read_tensor(WEIGHT, saved))
                box = tensor[box_slices(shard.offset, shard.shape)]
                part = flat[shard.start : shard.start + box.numel()]
                part.copy_(box.reshape(-1).to(self._rounding))


def run_of_model(model: ModelConfig) -> RunConfig:
    """A run's config around a model, to build it: one process, fp32, torch's kernels."""
    return RunConfig.model_validate(
        {
            "name": "model",
            "model": model,
            "data": {
                "train": "unused",
                "sequence_length": model.max_sequence_length,
                "packing": model.traits.objective.packings[0],
            },
            "optim": {"learning_rate": 1.0},
            "train": {"steps": 1, "global_batch_size": 1, "micro_batch_size": 1},
        }
    )


def _with_one_layer(model: ModelConfig) -> ModelConfig:
    return model.model_copy(update={"num_layers": 1})
