"""A checkpoint's model in one process, in fp32; exports are compared with it."""

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
from bigtrain.config.sections import ParallelConfig
from bigtrain.convert.families import token_types_of_halves
from bigtrain.environment import Ranks
from bigtrain.models.build import build_chunks, materialize
from bigtrain.models.shards import shards_of
from bigtrain.parallel.groups import process_groups


class CheckpointModel(AbstractContextManager["CheckpointModel"]):
    """bigtrain's model of megatron-core layers, on one CPU rank, without DeepSpeed."""

    def __init__(self, checkpoint: Folder, config: RunConfig) -> None:
        """Loads nothing yet; the model is built and loaded on entering.

        Args:
            checkpoint: A committed checkpoint.
            config: The config in it.
        """
        self._checkpoint, self._config = checkpoint, config
        self._stack = ExitStack()
        self._module: Any = None

    def __enter__(self) -> "CheckpointModel":
        layout = Layout()
        device = torch.device("cpu")
        ranks = Ranks(rank=0, world_size=1, local_rank=0)
        self._stack.enter_context(process_groups(ranks, layout, device))
        (self._module,) = build_chunks(_in_one_process(self._config), layout)
        self._shards = shards_of(self._module)
        materialize(self._module, device)
        self._module.eval()
        self._load()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @torch.no_grad()
    def outputs(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the model.

        Args:
            tokens: ``[batch, sequence]``, int64; for BERT, the second half is the second sentence.

        Returns:
            ``[batch, sequence, vocabulary]``, without the padding; and for BERT ``[batch, 2]``.
        """
        model = self._config.model
        if model.traits.reads_pairs:
            everywhere = torch.ones_like(tokens, dtype=torch.bool)
            logits, sentence = self._module(tokens, everywhere, token_types_of_halves(tokens))
            return logits[..., : model.vocab_size], sentence
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        return (self._module(tokens, positions, None)[..., : model.vocab_size],)

    @torch.no_grad()
    def _load(self) -> None:
        table = CheckpointReader(self._checkpoint)
        for name, parameter in self._module.named_parameters():
            flat = parameter.view(-1)
            for shard in self._shards[name]:
                tensor = torch.from_numpy(table.read_tensor(WEIGHT, shard.name))
                box = tensor[box_slices(shard.offset, shard.shape)]
                flat[shard.start : shard.start + box.numel()].copy_(box.reshape(-1))


def _in_one_process(config: RunConfig) -> RunConfig:
    """The same model without parallelism, in fp32, with torch's kernels."""
    plain = {"precision": "fp32", "recompute": "none", "compile": False, "kernels": "torch"}
    return config.model_copy(
        update={"parallel": ParallelConfig(), "train": config.train.model_copy(update=plain)}
    )
