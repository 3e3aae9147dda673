"""The version of DeepSpeed whose private names are known, and the layouts that need them."""

import logging

import deepspeed

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.sections import ParallelConfig
from bigtrain.engine.zero import zero_stage

log = logging.getLogger(__name__)

KNOWN_VERSION = "0.19.8"


def is_known_version() -> bool:
    """Whether the installed DeepSpeed is the version whose private names are known."""
    return bool(deepspeed.__version__ == KNOWN_VERSION)


def check_version(config: RunConfig) -> None:
    """Refuses layouts that need patches if the installed DeepSpeed is another version.

    Raises:
        ConfigError: It is another version, and the run's layout needs a patched DeepSpeed.
    """
    if is_known_version():
        return
    patched = needs_patches(config.parallel)
    if patched is not None:
        raise ConfigError(
            f"{patched} depends on private names of deepspeed {KNOWN_VERSION}, and "
            f"{deepspeed.__version__} is installed; pip install deepspeed=={KNOWN_VERSION}, or "
            "choose another layout"
        )
    log.warning(
        "deepspeed %s is installed, bigtrain was tested with %s",
        *(deepspeed.__version__, KNOWN_VERSION),
    )


def needs_patches(parallel: ParallelConfig) -> str | None:
    """The keys of a layout that works only with patches; None if DeepSpeed runs it unpatched."""
    stage = zero_stage(parallel)
    if stage.partitions_weights:
        return f"parallel.zero={parallel.zero}"
    if stage.reduces_each_backward and parallel.pipeline > 1:
        return f"parallel.zero={parallel.zero} with parallel.pipeline={parallel.pipeline}"
    return None
