"""The patches of DeepSpeed, in the order in which the engine applies them.

A name with parentheses is a function with those arguments. A name without parentheses is an
attribute. ``tests/bigtrain/engine/test_private_names.py`` compares all of them with the installed
DeepSpeed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bigtrain.engine.private.gradients import (
    accumulated_gradients,
    set_main_gradients,
    skip_division_by_one,
)
from bigtrain.engine.private.optimizer_state import (
    FullGradientState,
    OptimizerState,
    PartitionedState,
    PartitionedWeightState,
)
from bigtrain.engine.private.partitioning import partitioner
from bigtrain.engine.private.pipeline import reduce_after_every_backward, skip_trace_comparison
from bigtrain.engine.private.reduction import split_reduction_from_step
from bigtrain.engine.private.single_rank import skip_reduction_over_one_rank
from bigtrain.engine.private.startup import silence_memory_reports, skip_kernel_compilation


@dataclass(frozen=True, slots=True)
class Use:
    """One use of DeepSpeed's private names."""

    by: Callable[..., Any]
    """The function or class that replaces, calls or reads the names."""
    why: str
    names: tuple[str, ...]
    """Dotted names, relative to the package ``deepspeed``."""


_ENGINE = "runtime.engine.DeepSpeedEngine"
_BF16 = "runtime.bf16_optimizer"
_STAGE_2 = "runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer"
_STAGE_3 = "runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3"
_BASE = "runtime.base_optimizer.ZeROOptimizer"
_COORDINATOR = "runtime.zero.partitioned_param_coordinator"

_NORM = "DeepSpeed's step would compute a norm whose rounding error depends on the layout"

PATCHES: tuple[Use, ...] = (
    Use(
        skip_kernel_compilation,
        "at start-up DeepSpeed compiles collectives that CPU runs do not need",
        ("ops.__compatible_ops__",),
    ),
    Use(
        silence_memory_reports,
        "DeepSpeed prints its memory use",
        (f"{_BF16}.see_memory_usage(message, force)",),
    ),
    Use(
        skip_division_by_one,
        "DeepSpeed copies the gradient of the logits to divide it by one",
        (f"{_ENGINE}._backward_prologue_per_tensor(self, grad)",),
    ),
    Use(
        skip_reduction_over_one_rank,
        "DeepSpeed copies all gradients three or four times to reduce them over one rank",
        (
            f"{_ENGINE}.buffered_allreduce_fallback(self, grads, elements_per_buffer)",
            f"{_STAGE_2}.reduce_independent_p_g_buckets_and_remove_grads(self, param, i)",
        ),
    ),
    Use(
        FullGradientState,
        "DeepSpeed clears its fp32 gradients, then adds to them, which doubles the memory traffic",
        (
            f"{_BF16}.BF16_Optimizer._update_hp_grad"
            "(self, lp, group_idx, param_idx, clear_lp_grads)",
            f"{_BF16}.BF16_Optimizer.clear_hp_grads(self)",
        ),
    ),
    Use(
        split_reduction_from_step,
        "DeepSpeed reduces within its step, so gradients cannot be inspected before the update",
        (
            f"{_ENGINE}.enable_backward_allreduce",
            f"{_ENGINE}._running_engine_step",
            f"{_ENGINE}.allreduce_gradients(self, bucket_size)",
            f"{_STAGE_2}.finalize_gradient_accumulation_boundary(self)",
            f"{_STAGE_3}.finalize_gradient_accumulation_boundary(self)",
        ),
    ),
    Use(
        reduce_after_every_backward,
        "DeepSpeed reduces only the first of two consecutive backward passes (ZeRO 2 and 3, 1F1B)",
        (
            f"{_ENGINE}._backward_prologue(self)",
            f"{_BASE}.clear_backward_seen_flag(self)",
            f"{_STAGE_2}.clear_backward_seen_flag(self)",
            f"{_STAGE_3}.clear_backward_seen_flag(self)",
        ),
    ),
    Use(
        skip_trace_comparison,
        "DeepSpeed compares modules over all ranks, but stages hold different modules (ZeRO 3)",
        (f"{_COORDINATOR}.assert_ints_same_as_other_ranks(ints)",),
    ),
    Use(
        PartitionedState.override_norm,
        _NORM,
        (f"{_STAGE_2}.scaled_global_norm(self, norm_type)", f"{_STAGE_2}.check_grad_overflow"),
    ),
    Use(
        FullGradientState.override_norm,
        _NORM,
        (f"{_BF16}.get_global_norm_of_tensors(input_tensors, norm_type, mpu, moe_ep_group)",),
    ),
    Use(
        PartitionedWeightState.override_norm,
        _NORM,
        (f"{_STAGE_3}._get_norm_groups(self)",),
    ),
)
"""Names that are replaced, and names that a replacement calls."""

READS: tuple[Use, ...] = (
    Use(
        partitioner,
        "partitions a parameter that has no values yet",
        ("runtime.zero.partition_parameters.Init._convert_to_deepspeed_param(self, param)",),
    ),
    Use(
        accumulated_gradients,
        "finds the fp32 gradient of a parameter",
        (f"{_BF16}.BF16_Optimizer._hp_grad",),
    ),
    Use(
        set_main_gradients,
        "lets megatron-core sum the gradients that stages and tensor ranks share",
        (f"{_STAGE_2}.grad_accum",),
    ),
    Use(
        OptimizerState.override_norm,
        "relies on DeepSpeed skipping the update if the norm is negative",
        ("runtime.utils.is_invalid_grad_norm(norm)",),
    ),
    Use(
        PartitionedState,
        "finds masters, moments and gradients",
        (
            f"{_STAGE_2}.update_lp_params(self)",
            f"{_STAGE_2}.params_in_partition",
            f"{_STAGE_2}.averaged_gradients",
            f"{_STAGE_2}.single_partition_of_fp32_groups",
            f"{_STAGE_2}._zero_padding",
            f"{_STAGE_2}.cpu_offload",
            f"{_STAGE_2}._hp_mapping",
        ),
    ),
    Use(
        FullGradientState,
        "finds masters, moments and gradients",
        (
            f"{_BF16}.BF16_Optimizer.update_lp_params(self)",
            f"{_BF16}.BF16_Optimizer.bf16_groups",
            f"{_BF16}.BF16_Optimizer.fp32_groups_flat_partition",
            f"{_BF16}.BF16_Optimizer.fp32_groups_gradients",
            f"{_BF16}.BF16_Optimizer.fp32_groups_gradient_flat_partition",
            f"{_BF16}.BF16_Optimizer.fp32_groups_has_gradients",
        ),
    ),
    Use(
        PartitionedWeightState,
        "finds masters, moments and gradients, and copies masters into weights",
        (
            f"{_STAGE_3}._get_fp32_grad_state_partition(self, param, release_swap_buffers)",
            f"{_STAGE_3}._get_param_partition_rank(self, param)",
            f"{_STAGE_3}._partition_all_parameters(self)",
            f"{_STAGE_3}._reassign_or_swap_out_partitioned_parameters(self, sub_group_id)",
            f"{_STAGE_3}.get_param_id(self, param)",
            f"{_STAGE_3}.fp16_groups",
            f"{_STAGE_3}.fp32_partitioned_groups_flat",
            f"{_STAGE_3}.grad_partitions_flat_buffer",
            f"{_STAGE_3}.grad_position",
            f"{_STAGE_3}.persistent_parameters",
        ),
    ),
)
"""Names that are only called or read."""
