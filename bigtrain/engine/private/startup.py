"""Skips two things that DeepSpeed does at start-up."""

import deepspeed
from deepspeed.runtime import bf16_optimizer


def skip_kernel_compilation() -> None:
    """Prevents DeepSpeed from compiling its shared-memory collectives at start-up.

    Compiling takes almost a minute and needs a C++ compiler. On CPU gloo runs the collectives.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def silence_memory_reports() -> None:
    """Prevents DeepSpeed's bf16 optimizer from printing its memory use 18 times at start-up."""
    bf16_optimizer.see_memory_usage = lambda *_, **__: None
