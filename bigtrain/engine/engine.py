"""One training step in any layout, in phases: ``backward``, ``reduce``, ``update`` or ``discard``.

megatron-core's schedule runs the microbatches. DeepSpeed reduces gradients and updates weights.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import logger as deepspeed_logger
from megatron.core.distributed.finalize_model_grads import finalize_model_grads

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.engine import private
from bigtrain.engine.boxes import GradientBox, StateBox, cut_gradients, cut_state
from bigtrain.engine.chunks import ChunkList, ScheduledChunk
from bigtrain.engine.deepspeed_version import check_deepspeed_version, warn_of_other_version
from bigtrain.engine.gradient_norm import global_norm
from bigtrain.engine.settings import REDUCE_BUCKET_ELEMENTS, deepspeed_settings
from bigtrain.engine.shared_gradients import sum_over_tensor_ranks, sum_tied, tied_weight
from bigtrain.engine.topology import Topology
from bigtrain.engine.zero import zero_stage
from bigtrain.models.build import materialize
from bigtrain.models.initial import fill_initial_values
from bigtrain.models.shards import Shard, shards_of
from bigtrain.parallel import groups
from bigtrain.parallel.buckets import fill_buckets
from bigtrain.parallel.device import (
    keep_freed_memory,
    mark_time,
    runs_on_cpu,
    seconds_between,
    synchronize,
)
from bigtrain.parallel.schedule import ForwardStep, Report, run_microbatches

deepspeed_logger.setLevel(logging.ERROR)


class _Phase(Enum):
    """Which call of the current step comes next."""

    READY = "backward comes next"
    ACCUMULATED = "reduce comes next"
    REDUCED = "update or discard comes next"


class Engine:
    """Trains this rank's part of the model, and holds its optimizer state.

    A step is three calls, in this order, on every rank::

        reports = engine.backward(forward_step, microbatches)
        norm = engine.reduce()
        engine.update(learning_rate)  # or engine.discard()
    """

    def __init__(
        self, config: RunConfig, chunks: Sequence[Any], *, layout: Layout, device: torch.device
    ) -> None:
        """Allocates the weights; ``initialize`` or ``writable_boxes`` sets their values.

        Args:
            config: The run's config.
            chunks: This rank's part of the model, from ``build_chunks``, on the meta device.
            layout: The sizes of the grid.
            device: The device of this rank.
        """
        check_deepspeed_version(config)
        warn_of_other_version()
        private.skip_kernel_compilation()
        private.silence_memory_reports()
        self._config = config
        self._layout = layout
        self._device = device
        self._zero = zero_stage(config.parallel)
        self._phase = _Phase.READY
        self._began = self._passed = mark_time(device)
        self._norm = math.nan
        module = ChunkList(chunks)
        shards = [self._shards_of(chunk) for chunk in chunks]
        topology = Topology(layout, partitions_state=self._zero.partitions_state)
        settings = deepspeed_settings(
            config,
            parameters_per_rank=sum(p.numel() for p in module.parameters()),
            prefetch=not runs_on_cpu(device),
        )
        partition = None
        if self._zero.partitions_weights:
            partition = private.partitioner(settings, topology=topology)
        materialize(module, device, after_each=partition)
        self._parameters = list(module.parameters())
        self._shards = {
            parameter: shards[number][name]
            for number, chunk in enumerate(chunks)
            for name, parameter in chunk.named_parameters()
        }
        self._deepspeed, self._optimizer, _, _ = deepspeed.initialize(
            model=module,
            optimizer=_adamw(config, self._shards),
            config=settings,
            mpu=topology,
            dist_init_required=False,
        )
        private.skip_division_by_one(self._deepspeed)
        has_peers = topology.get_data_parallel_world_size() > 1
        if not (self._zero.reduces_each_backward or has_peers or config.parallel.offload_optimizer):
            private.skip_reduction_over_one_rank(self._deepspeed, self._optimizer)
        self._state = private.state_of(self._optimizer)
        self._finish_reduction = private.split_reduction_from_step(self._deepspeed, self._optimizer)
        self._prepare_gradients(chunks)
        self.chunks = [
            ScheduledChunk(self._deepspeed, chunk, number=number)
            for number, chunk in enumerate(chunks)
        ]
        keep_freed_memory(device)

    def _shards_of(self, chunk: Any) -> dict[str, list[Shard]]:
        shards = shards_of(chunk)
        if self._zero.partitions_state or dist.get_rank(groups.replica_group()) == 0:
            return shards
        # With ZeRO 0 all replica ranks keep the same state; only the first counts and saves it.
        return {
            name: [replace(shard, is_first_replica=False) for shard in parts]
            for name, parts in shards.items()
        }

    def _prepare_gradients(self, chunks: Sequence[Any]) -> None:
        """Sets up the gradient sums over ranks that share parameters or activations."""
        self._tied = None
        for chunk in chunks:
            chunk.config.finalize_model_grads_func = self._finalize_gradients
        if not self._zero.reduces_each_backward:
            return
        if self._layout.tensor > 1:
            sum_over_tensor_ranks(chunks)
        if self._layout.pipeline > 1:
            private.reduce_after_every_backward(self._deepspeed, self._optimizer)
            private.skip_trace_comparison()
            self._tied = tied_weight(chunks)

    def backward(self, forward_step: ForwardStep, microbatches: Sequence[Any]) -> list[Report]:
        """The first phase of a step: forward and backward passes over the microbatches.

        Args:
            forward_step: Returns each microbatch's output and loss function.
            microbatches: This rank's share of the batch.

        Returns:
            The loss function's report of each microbatch; empty except on the last stage.
        """
        self._enter(_Phase.READY, _Phase.ACCUMULATED)
        self._deepspeed.train()
        self._began = self._passed = mark_time(self._device)
        return self._run(forward_step, microbatches, forward_only=False)

    def reduce(self) -> float:
        """The second phase: completes the reduction of the gradients over all ranks.

        Returns:
            The gradient's global norm before clipping, the same on every rank; infinite if the
            gradient is not finite.
        """
        self._enter(_Phase.ACCUMULATED, _Phase.REDUCED)
        self._finish_reduction()
        if self._config.parallel.offload_optimizer:
            # DeepSpeed copies the gradients to the host in the background.
            synchronize(self._device)
        self._sum_tied_gradients()
        self._norm = self._gradient_norm()
        return self._norm

    def pass_seconds(self) -> float:
        """Seconds of this rank's forward and backward passes in this step; call it after `reduce`.

        The time ends before gradients are reduced over the replica ranks, so with ZeRO 0 and 1 it
        holds no waiting for ranks that read other samples. It does hold the waiting for ranks of
        the same copy of the model: tensor ranks wait for each other in every layer, and stages for
        the next one. With ZeRO 2 and 3 replica ranks wait for each other in every pass, so all have
        about the same time. On a GPU it is the device's time; it is known since `reduce`, which
        waited for the norm.
        """
        assert self._phase is _Phase.REDUCED, self._phase.value
        return seconds_between(self._began, self._passed)

    def update(self, learning_rate: float) -> bool:
        """The last phase: clips the gradients and updates the weights.

        No rank updates if any rank calls ``discard`` instead, or if the norm is not finite.

        Args:
            learning_rate: The learning rate of this update.

        Returns:
            Whether the update was applied, the same on every rank.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        return self._end_step(update=True)

    def discard(self) -> None:
        """Replaces ``update`` as the last phase: clears the gradients.

        Weights, moments and step counts do not change on any rank.
        """
        self._end_step(update=False)

    def gradient_boxes(self) -> list[GradientBox]:
        """The boxes of the global gradients that this rank keeps; call it after ``reduce``."""
        assert self._phase is _Phase.REDUCED, self._phase.value
        return cut_gradients(self._shards, self._state.gradients())

    def evaluate(self, forward_step: ForwardStep, microbatches: Sequence[Any]) -> list[Report]:
        """Runs only forward passes, without dropout, between two steps; returns their reports."""
        assert self._phase is _Phase.READY, self._phase.value
        self._deepspeed.eval()
        with torch.no_grad():
            return self._run(forward_step, microbatches, forward_only=True)

    def boxes(self) -> list[StateBox]:
        """The boxes of the global tensors whose state this rank keeps, as views."""
        fragments = (
            (parameter, fragment)
            for parameter in self._parameters
            if (fragment := self._state.fragment_of(parameter)) is not None
        )
        return cut_state(self._shards, fragments)

    @contextmanager
    def writable_boxes(self) -> Iterator[list[StateBox]]:
        """Yields ``boxes`` for writing; at the end copies the masters into the weights."""
        yield self.boxes()
        self._state.copy_masters_to_weights()

    def initialize(self) -> None:
        """Sets the weights to initial values, which depend only on their names and the seed."""
        with self.writable_boxes() as boxes:
            for box in boxes:
                fill_initial_values(
                    box.master,
                    name=box.name,
                    global_shape=box.global_shape,
                    offset=box.offset,
                    model=self._config.model,
                    seed=self._config.seed,
                )

    @property
    def optimizer_steps(self) -> int:
        """Number of updates applied so far."""
        return self._state.steps

    @optimizer_steps.setter
    def optimizer_steps(self, steps: int) -> None:
        self._state.steps = steps

    def close(self) -> None:
        """Removes DeepSpeed's hooks."""
        self._deepspeed.destroy()

    def _enter(self, before: _Phase, after: _Phase) -> None:
        assert self._phase is before, self._phase.value
        self._phase = after

    def _run(
        self, forward_step: ForwardStep, microbatches: Sequence[Any], *, forward_only: bool
    ) -> list[Report]:
        return run_microbatches(
            forward_step,
            microbatches,
            chunks=self.chunks,
            # Sentence pairs are padded to the longest pair of their batch.
            sequence_length=microbatches[0].tokens.shape[1],
            micro_batch_size=self._config.train.micro_batch_size,
            forward_only=forward_only,
        )

    def _end_step(self, *, update: bool) -> bool:
        self._enter(_Phase.REDUCED, _Phase.READY)
        # If only some ranks updated, the ranks would hold different weights.
        agreed = torch.tensor(float(update and math.isfinite(self._norm)), device=self._device)
        dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
        applied = bool(agreed.item())
        with self._state.override_norm(self._norm if applied else None):
            self._deepspeed.step()
        self._state.clear_gradients()
        return applied

    def _gradient_norm(self) -> float:
        counted = (
            fragment.values
            for parameter, fragment in self._state.gradients()
            if self._shards[parameter][0].is_first_replica
        )
        return global_norm(counted, device=self._device)

    def _finalize_gradients(self, chunks: Any, *args: Any, **kwargs: Any) -> None:
        """Sums gradients that stages or tensor ranks share; called after the last backward pass."""
        self._passed = mark_time(self._device)
        if self._zero.reduces_each_backward:  # Hooks and _sum_tied_gradients sum them.
            return
        self._state.zero_missing_gradients()
        private.set_main_gradients(self._parameters)
        finalize_model_grads(chunks, *args, **kwargs)
        private.delete_main_gradients(self._parameters)
        if not self._zero.partitions_state and self._layout.replica_ranks > 1:
            self._average_over_replica_ranks()

    def _sum_tied_gradients(self) -> None:
        if self._tied is not None:
            fragments = dict(self._state.gradients())
            sum_tied(
                self._tied,
                fragments.get(self._tied),
                shared_ranges=self._zero.partitions_weights,
            )

    def _average_over_replica_ranks(self) -> None:
        """Averages the gradients over the replica ranks with ZeRO 0; DeepSpeed does it with 1 to 3.

        Replica ranks are batch ranks × context ranks. Context ranks have parts of one sample, so
        their gradients must be added, and only those of batch ranks averaged. Dividing by the
        number of replica ranks does both, because megatron-core's schedule has multiplied the loss
        by the number of context ranks.
        """
        gradients = private.accumulated_gradients(self._parameters)
        for bucket in fill_buckets(gradients, elements=REDUCE_BUCKET_ELEMENTS):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat, group=groups.replica_group())
            flat /= self._layout.replica_ranks
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def _adamw(
    config: RunConfig, shards: Mapping[torch.nn.Parameter, Sequence[Shard]]
) -> torch.optim.AdamW:
    # The shapes come from the shards, because with ZeRO 3 the parameters are empty.
    matrices = [p for p, parts in shards.items() if len(parts[0].shape) > 1]
    vectors = [p for p, parts in shards.items() if len(parts[0].shape) <= 1]
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
