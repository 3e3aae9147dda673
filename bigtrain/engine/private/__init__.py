"""Everything that uses DeepSpeed's private names; ``patches.py`` lists what is replaced and why."""

from bigtrain.engine.private.gradients import (
    accumulated_gradients,
    delete_main_gradients,
    set_main_gradients,
    skip_division_by_one,
)
from bigtrain.engine.private.optimizer_state import (
    Fragment,
    GradientFragment,
    state_of,
)
from bigtrain.engine.private.partitioning import partitioner
from bigtrain.engine.private.pipeline import reduce_after_every_backward, skip_trace_comparison
from bigtrain.engine.private.reduction import split_reduction_from_step
from bigtrain.engine.private.single_rank import skip_reduction_over_one_rank
from bigtrain.engine.private.startup import silence_memory_reports, skip_kernel_compilation

__all__ = [
    "Fragment",
    "GradientFragment",
    "accumulated_gradients",
    "delete_main_gradients",
    "partitioner",
    "reduce_after_every_backward",
    "set_main_gradients",
    "silence_memory_reports",
    "skip_division_by_one",
    "skip_kernel_compilation",
    "skip_reduction_over_one_rank",
    "skip_trace_comparison",
    "split_reduction_from_step",
    "state_of",
]
