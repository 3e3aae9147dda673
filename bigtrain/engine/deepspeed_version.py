"""The DeepSpeed version whose private names are known, and the layouts that need it. No torch."""

import logging
import sys
from importlib.metadata import PackageNotFoundError, version

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.sections import ParallelConfig
from bigtrain.engine.zero import zero_stage

log = logging.getLogger(__name__)

KNOWN_VERSION = "0.19.8"


def installed_version() -> str:
    """The version of DeepSpeed: of the imported module, or of the package before it is imported.

    Raises:
        ConfigError: DeepSpeed is not installed.
    """
    if module := sys.modules.get("deepspeed"):
        return str(module.__version__)
    try:
        return version("deepspeed")
    except PackageNotFoundError:
        raise ConfigError(
            f"deepspeed is not installed; pip install deepspeed=={KNOWN_VERSION}"
        ) from None


def is_known_version() -> bool:
    """Whether the installed DeepSpeed is the version whose private names are known."""
    return installed_version() == KNOWN_VERSION


def check_deepspeed_version(config: RunConfig) -> None:
    """Refuses layouts that only the known version of DeepSpeed can run, if it is another one.

    Raises:
        ConfigError: It is another version, and the run's layout needs the known one.
    """
    keys = needs_known_version(config.parallel)
    if keys is not None and not is_known_version():
        raise ConfigError(
            f"{keys} depends on private names of deepspeed {KNOWN_VERSION}, and "
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


def needs_known_version(parallel: ParallelConfig) -> str | None:
    """The keys of a layout that only the known version can run; None if others may run it.

    Patches that every layout needs fail loudly with another version.
    """
    stage = zero_stage(parallel)
    if stage.partitions_weights:
        return f"parallel.zero={parallel.zero}"
    if stage.reduces_each_backward and parallel.pipeline > 1:
        return f"parallel.zero={parallel.zero} with parallel.pipeline={parallel.pipeline}"
    return None
