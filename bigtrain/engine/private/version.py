"""The DeepSpeed whose private names we know, and what it is kept from doing at the start."""

import logging

import deepspeed
from deepspeed.runtime import bf16_optimizer

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.sections import ParallelConfig

log = logging.getLogger(__name__)

KNOWN_VERSION = "0.19.8"


def is_known() -> bool:
    """Whether the private names of the installed DeepSpeed are those that we have seen."""
    return bool(deepspeed.__version__ == KNOWN_VERSION)


def check_version(config: RunConfig) -> None:
    """Refuses what leans on patches of a DeepSpeed that we have not seen.

    Raises:
        ConfigError: It is another version, and the run's layout needs a patched one.
    """
    if is_known():
        return
    patched = needs_patches(config.parallel)
    if patched is not None:
        raise ConfigError(
            f"{patched} leans on the inner workings of deepspeed {KNOWN_VERSION}, and "
            f"{deepspeed.__version__} is installed; pip install deepspeed=={KNOWN_VERSION}, or "
            "choose another layout"
        )
    log.warning(
        "deepspeed %s is installed, bigtrain was tested with %s",
        *(deepspeed.__version__, KNOWN_VERSION),
    )


def needs_patches(parallel: ParallelConfig) -> str | None:
    """The part of a layout for which DeepSpeed is patched, in the user's words; None without."""
    if parallel.zero == 3:
        return "parallel.zero=3"
    if parallel.zero == 2 and parallel.pipeline > 1:
        return f"parallel.zero=2 with parallel.pipeline={parallel.pipeline}"
    return None


def silence_memory_reports() -> None:
    """Keeps DeepSpeed's bf16 optimizer from printing (not logging) the memory 18 times a start."""
    bf16_optimizer.see_memory_usage = lambda *_, **__: None


def leave_kernels_uncompiled() -> None:
    """Keeps DeepSpeed from compiling its shared-memory collectives at start-up.

    That takes most of a minute and a C++ compiler, and gloo's own sums are what runs on CPU.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
