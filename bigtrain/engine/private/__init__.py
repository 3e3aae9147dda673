"""DeepSpeed's private names, all of them, behind a check of its version."""

from bigtrain.engine.private.accumulated import (
    accumulated_gradients,
    leave_outputs_undivided,
    lend_main_gradients,
    take_back_main_gradients,
)
from bigtrain.engine.private.alone import leave_gradients_in_place
from bigtrain.engine.private.partition import partitioner
from bigtrain.engine.private.pipeline import follow_the_schedule, let_stages_differ
from bigtrain.engine.private.state import (
    Fragment,
    GradientFragment,
    OptimizerState,
    state_of,
)
from bigtrain.engine.private.version import (
    KNOWN_VERSION,
    check_version,
    leave_kernels_uncompiled,
    needs_patches,
    silence_memory_reports,
)

__all__ = [
    "KNOWN_VERSION",
    "Fragment",
    "GradientFragment",
    "OptimizerState",
    "accumulated_gradients",
    "check_version",
    "follow_the_schedule",
    "leave_gradients_in_place",
    "leave_kernels_uncompiled",
    "leave_outputs_undivided",
    "lend_main_gradients",
    "let_stages_differ",
    "needs_patches",
    "partitioner",
    "silence_memory_reports",
    "state_of",
    "take_back_main_gradients",
]
