"""One training step, whatever the layout: the schedule runs the microbatches, the engine steps."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import logger as deepspeed_logger
from megatron.core.distributed.finalize_model_grads import finalize_model_grads

from bigtrain.config import RunConfig
from bigtrain.engine import private
from bigtrain.engine.pieces import Piece, cut_pieces
from bigtrain.engine.settings import REDUCE_BUCKET_ELEMENTS, deepspeed_settings
from bigtrain.engine.stage import Stage
from bigtrain.engine.topology import Topology
from bigtrain.models.build import materialize
from bigtrain.models.shards import shards_of
from bigtrain.parallel import groups
from bigtrain.parallel.layout import Layout
from bigtrain.parallel.schedule import ForwardStep, Report, run_microbatches

deepspeed_logger.setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Update:
    """What one optimizer step did."""

    reports: list[Report]
    """The loss function's report of each microbatch; empty but on the last stage."""
    grad_norm: float
    """Global norm before clipping."""
    skipped: bool
    """Whether nothing was applied, because the norm was not finite."""


class Engine:
    """This rank's part of the model, its optimizer state, and how they take a step."""

    def __init__(
        self, config: RunConfig, chunks: Sequence[Any], *, layout: Layout, device: torch.device
    ) -> None:
        """Gives the weights storage, not yet values.

        Args:
            config: The run's config.
            chunks: This rank's part of the model, from ``build_chunks``, on the meta device.
            layout: The grid.
            device: Where the ranks compute.
        """
        assert len(chunks) == 1
        module = chunks[0]
        private.check_version()
        private.leave_kernels_uncompiled()
        private.silence_memory_reports()
        self._config = config
        self._layout = layout
        shards = shards_of(module)
        materialize(module, device)
        self._parameters = list(module.parameters())
        self._shards = {p: shards[name] for name, p in module.named_parameters()}
        self._deepspeed, self._optimizer, _, _ = deepspeed.initialize(
            model=module,
            optimizer=_adamw(config, module),
            config=deepspeed_settings(
                config, parameters_per_rank=sum(p.numel() for p in self._parameters)
            ),
            mpu=Topology(layout, zero_stage=config.parallel.zero),
            dist_init_required=False,
        )
        private.create_moments(self._optimizer)
        module.config.finalize_model_grads_func = self._finalize_gradients
        self.stages = [Stage(self._deepspeed, module)]

    def train_step(
        self, forward_step: ForwardStep, microbatches: Sequence[Any], *, learning_rate: float
    ) -> Update:
        """Forward and backward over the microbatches, then one update.

        Args:
            forward_step: Gives each microbatch's output and loss function.
            microbatches: This rank's share of the batch.
            learning_rate: Of this update.
        """
        self._deepspeed.train()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        reports = self._run(forward_step, microbatches, forward_only=False)
        self._deepspeed.step()
        return Update(
            reports=reports,
            grad_norm=private.gradient_norm(self._deepspeed),
            skipped=private.was_skipped(self._optimizer),
        )

    def evaluate(self, forward_step: ForwardStep, microbatches: Sequence[Any]) -> list[Report]:
        """Forward passes alone, without dropout; reports as from ``train_step``."""
        self._deepspeed.eval()
        with torch.no_grad():
            return self._run(forward_step, microbatches, forward_only=True)

    def pieces(self) -> list[Piece]:
        """The boxes of the global tensors whose state this rank keeps, as views."""
        fragments = (
            (parameter, fragment)
            for parameter in self._parameters
            if (fragment := private.fragment_of(parameter, self._optimizer)) is not None
        )
        return cut_pieces(self._shards, fragments)

    @contextmanager
    def writable_pieces(self) -> Iterator[list[Piece]]:
        """The same, to be written; the model computes with the new values afterwards."""
        yield self.pieces()
        private.publish_masters(self._optimizer)

    @property
    def writes_data_replicas(self) -> bool:
        """Whether this rank saves its pieces: with ZeRO 0, data ranks repeat each other's."""
        return self._config.parallel.zero > 0 or dist.get_rank(groups.data_parallel_group()) == 0

    @property
    def optimizer_steps(self) -> int:
        """Updates applied so far."""
        return private.adam_steps(self._optimizer)

    @optimizer_steps.setter
    def optimizer_steps(self, steps: int) -> None:
        private.set_adam_steps(self._optimizer, steps)

    def close(self) -> None:
        """Removes DeepSpeed's hooks."""
        self._deepspeed.destroy()

    def _run(
        self, forward_step: ForwardStep, microbatches: Sequence[Any], *, forward_only: bool
    ) -> list[Report]:
        return run_microbatches(
            forward_step,
            microbatches,
            stages=self.stages,
            sequence_length=self._config.data.sequence_length,
            micro_batch_size=self._config.train.micro_batch_size,
            forward_only=forward_only,
        )

    def _finalize_gradients(self, stages: Any, *args: Any, **kwargs: Any) -> None:
        """Sums what stages and tensor ranks share; called after the last backward."""
        private.lend_main_gradients(self._parameters)
        finalize_model_grads(stages, *args, **kwargs)
        private.take_back_main_gradients(self._parameters)
        if self._config.parallel.zero == 0 and self._layout.data > 1:
            self._average_over_data_ranks()

    def _average_over_data_ranks(self) -> None:
        for bucket in _buckets(private.accumulated_gradients(self._parameters)):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat, group=groups.data_parallel_group())
            flat /= self._layout.data
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Groups tensors so that each group is sent at once and none is much over the bucket size."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > REDUCE_BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _adamw(config: RunConfig, module: Any) -> torch.optim.AdamW:
    parameters = list(module.parameters())
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.optim.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.optim.learning_rate,
        betas=(config.optim.beta1, config.optim.beta2),
        eps=config.optim.epsilon,
        fused=True,
    )
