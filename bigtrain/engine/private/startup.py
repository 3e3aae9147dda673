"""Two things that DeepSpeed does at start-up and that are left out."""

import deepspeed
from deepspeed.runtime import bf16_optimizer


def skip_kernel_compilation() -> None:
    """Keeps DeepSpeed from compiling its shared-memory collectives at start-up.

    That takes most of a minute and a C++ compiler. On CPU gloo does the collectives.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def silence_memory_reports() -> None:
    """Keeps DeepSpeed's bf16 optimizer from printing its memory use 18 times at every start."""
    bf16_optimizer.see_memory_usage = lambda *_, **__: None
