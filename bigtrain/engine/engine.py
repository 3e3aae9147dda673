"""One training step, whatever the layout: the schedule runs the microbatches, the engine steps."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import logger as deepspeed_logger
from megatron.core.distributed.finalize_model_grads import finalize_model_grads

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.engine import private
from bigtrain.engine.norm import global_norm
from bigtrain.engine.pieces import GradientPiece, Piece, cut_gradient_pieces, cut_pieces
from bigtrain.engine.settings import REDUCE_BUCKET_ELEMENTS, deepspeed_settings
from bigtrain.engine.shared import sum_over_tensor_ranks, sum_tied, tied_weight
from bigtrain.engine.stage import Chunks, Stage
from bigtrain.engine.topology import Topology
from bigtrain.models.build import materialize
from bigtrain.models.initial import fill_initial_values
from bigtrain.models.shards import Shard, shards_of
from bigtrain.parallel import groups
from bigtrain.parallel.buckets import fill_buckets
from bigtrain.parallel.device import runs_on_cpu, settle_memory
from bigtrain.parallel.schedule import ForwardStep, Report, run_microbatches

deepspeed_logger.setLevel(logging.ERROR)


Accept = Callable[[list[Report], float], bool]
"""Whether an update is applied, from this rank's reports and the gradient's global norm."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one optimizer step did."""

    reports: list[Report]
    """The loss function's report of each microbatch; empty but on the last stage."""
    grad_norm: float
    """Global norm before clipping, the same on every rank; infinite where it is not a number."""
    skipped: bool
    """Whether nothing was applied: the norm was not finite, or the update not accepted."""


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
        private.check_version(config)
        private.leave_kernels_uncompiled()
        private.silence_memory_reports()
        self._config = config
        self._layout = layout
        self._device = device
        self._is_judging = False
        module = Chunks(chunks)
        shards = [shards_of(chunk) for chunk in chunks]
        topology = Topology(layout, zero_stage=config.parallel.zero)
        settings = deepspeed_settings(
            config,
            parameters_per_rank=sum(p.numel() for p in module.parameters()),
            prefetch=not runs_on_cpu(device),
        )
        partition = private.partitioner(settings, topology=topology) if self._zero == 3 else None
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
        private.leave_outputs_undivided(self._deepspeed)
        shares = topology.get_data_parallel_world_size() > 1
        if self._zero < 2 and not shares and not config.parallel.offload_optimizer:
            private.leave_gradients_in_place(self._deepspeed, self._optimizer)
        self._state = private.state_of(self._optimizer)
        self._prepare_gradients(chunks)
        self.stages = [
            Stage(self._deepspeed, chunk, number=number) for number, chunk in enumerate(chunks)
        ]
        settle_memory(device)

    @property
    def _zero(self) -> int:
        return self._config.parallel.zero

    def _prepare_gradients(self, chunks: Sequence[Any]) -> None:
        """Arranges who sums what between the ranks that share parameters or activations."""
        self._tied = None
        for chunk in chunks:
            chunk.config.finalize_model_grads_func = self._finalize_gradients
        if self._zero < 2:
            return
        if self._layout.tensor > 1:
            sum_over_tensor_ranks(chunks)
        if self._layout.pipeline > 1:
            private.follow_the_schedule(self._deepspeed, self._optimizer)
            private.let_stages_differ()
            self._tied = tied_weight(chunks)

    def train_step(
        self,
        forward_step: ForwardStep,
        microbatches: Sequence[Any],
        *,
        learning_rate: float,
        accept: Accept | None = None,
    ) -> Update:
        """Forward and backward over the microbatches, then one update, or none.

        Args:
            forward_step: Gives each microbatch's output and loss function.
            microbatches: This rank's share of the batch.
            learning_rate: Of this update.
            accept: Called on every rank once the global norm is known (it may be infinite) and
                before anything is applied; it may communicate, and ask for ``gradient_pieces``.
                Where any rank's says no, no weight, moment or count of steps changes on any.
        """
        self._deepspeed.train()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        reports = self._run(forward_step, microbatches, forward_only=False)
        norm, applied = math.nan, False

        def judge() -> float | None:
            nonlocal norm, applied
            self._sum_tied_gradients()
            norm = self._gradient_norm()
            applied = self._is_accepted(reports, norm, accept)
            return norm if applied else None

        with self._state.judged_by(judge):
            self._deepspeed.step()
        self._state.forget_gradients()
        return Update(reports=reports, grad_norm=norm, skipped=not applied)

    def gradient_pieces(self) -> list[GradientPiece]:
        """The boxes of the global gradients that this rank keeps; only from within ``accept``."""
        assert self._is_judging, "gradients stand between the reduction and the update only"
        return cut_gradient_pieces(self._shards, self._state.gradients())

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
            if (fragment := self._state.fragment_of(parameter)) is not None
        )
        return cut_pieces(self._shards, fragments)

    @contextmanager
    def writable_pieces(self) -> Iterator[list[Piece]]:
        """The same, to be written; the model computes with the new values afterwards."""
        yield self.pieces()
        self._state.publish_masters()

    def initialize(self) -> None:
        """Gives the weights their initial values, which follow from their names and the seed."""
        with self.writable_pieces() as pieces:
            for piece in pieces:
                fill_initial_values(
                    piece.master,
                    name=piece.name,
                    global_shape=piece.global_shape,
                    offset=piece.offset,
                    model=self._config.model,
                    seed=self._config.seed,
                )

    @property
    def writes_data_replicas(self) -> bool:
        """Whether this rank saves its pieces: with ZeRO 0, data ranks repeat each other's."""
        return self._config.parallel.zero > 0 or dist.get_rank(groups.replica_group()) == 0

    @property
    def optimizer_steps(self) -> int:
        """Updates applied so far."""
        return self._state.steps

    @optimizer_steps.setter
    def optimizer_steps(self, steps: int) -> None:
        self._state.steps = steps

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
            # Sentence pairs are as wide as the longest of their batch.
            sequence_length=microbatches[0].tokens.shape[1],
            micro_batch_size=self._config.train.micro_batch_size,
            forward_only=forward_only,
        )

    def _gradient_norm(self) -> float:
        counted = (
            fragment.values
            for parameter, fragment in self._state.gradients()
            if self._shards[parameter][0].is_first_replica and self.writes_data_replicas
        )
        return global_norm(counted, device=self._device)

    def _is_accepted(self, reports: list[Report], norm: float, accept: Accept | None) -> bool:
        """Whether every rank accepts; a norm that is not finite is never applied."""
        is_finite = math.isfinite(norm)
        if accept is None:
            return is_finite
        self._is_judging = True
        accepted = accept(reports, norm) and is_finite
        self._is_judging = False
        # A rank that steps where another does not would train another model from here on.
        verdict = torch.tensor(float(accepted), device=self._device)
        dist.all_reduce(verdict, op=dist.ReduceOp.MIN)
        return bool(verdict.item())

    def _finalize_gradients(self, stages: Any, *args: Any, **kwargs: Any) -> None:
        """Sums what stages and tensor ranks share; called after the last backward."""
        if self._zero >= 2:  # They are reduced and gone: see _prepare_gradients.
            return
        self._state.complete_gradients()
        private.lend_main_gradients(self._parameters)
        finalize_model_grads(stages, *args, **kwargs)
        private.take_back_main_gradients(self._parameters)
        if self._zero == 0 and self._layout.replica_ranks > 1:
            self._average_over_replica_ranks()

    def _sum_tied_gradients(self) -> None:
        if self._tied is not None:
            fragments = dict(self._state.gradients())
            sum_tied(self._tied, fragments.get(self._tied), shared_ranges=self._zero == 3)

    def _average_over_replica_ranks(self) -> None:
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
    # The shapes of the shards: under ZeRO 3 the parameters have none.
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
