"""The DeepSpeed version whose private names are known, and the layouts that need it. No torch."""

import logging
from importlib.metadata import version

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.sections import ParallelConfig
from bigtrain.engine.zero import zero_stage

log = logging.getLogger(__name__)

KNOWN_VERSION = "0.19.8"


def installed_version() -> str:
    """The version of the installed DeepSpeed."""
    return version("deepspeed")


def is_known_version() -> bool:
    """Whether the installed DeepSpeed is the version whose private names are known."""
    return installed_version() == KNOWN_VERSION


def check_deepspeed_version(config: RunConfig) -> None:
    """Refuses layouts that need patches if the installed DeepSpeed is another version.

    Raises:
        ConfigError: It is another version, and the run's layout needs a patched DeepSpeed.
    """
    patched = needs_patches(config.parallel)
    if patched is not None and not is_known_version():
        raise ConfigError(
            f"{patched} depends on private names of deepspeed {KNOWN_VERSION}, and "
            f"{installed_version()} is installed; pip install deepspeed=={KNOWN_VERSION}, or "
            "choose another layout"
        )


def warn_of_other_version() -> None:
    """Logs a warning if bigtrain was not tested with the installed DeepSpeed."""
    if not is_known_version():
        log.warning(
            "deepspeed %s is installed, bigtrain was tested with %s",
            *(installed_version(), KNOWN_VERSION),
        )


def needs_patches(parallel: ParallelConfig) -> str | None:
    """The keys of a layout that works only with patches; None if DeepSpeed runs it unpatched."""
    stage = zero_stage(parallel)
    if stage.partitions_weights:
        return f"parallel.zero={parallel.zero}"
    if stage.reduces_each_backward and parallel.pipeline > 1:
        return f"parallel.zero={parallel.zero} with parallel.pipeline={parallel.pipeline}"
    return None
