"""Checks that this machine can compute a run, before any process group or model is made.

torch is imported only where the answer depends on whether there is a GPU.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.device_rules import DeviceKind, find_device_problems
from bigtrain.environment import Ranks

if TYPE_CHECKING:
    import torch


def check_device(config: RunConfig) -> None:
    """Refuses a run that this machine's devices or installed packages cannot compute.

    Raises:
        ConfigError: The machine cannot compute the run; the message is one line.
    """
    problems: dict[DeviceKind, list[str]] = {
        "cpu": _find_problems(config, "cpu"),
        "cuda": _find_problems(config, "cuda"),
    }
    if not any(problems.values()):
        return
    from bigtrain.parallel.device import device_kind

    if found := problems[device_kind(config.parallel.device)]:
        raise ConfigError("; ".join(found))


def check_and_choose_device(config: RunConfig, ranks: Ranks) -> "torch.device":
    """Chooses and prepares this rank's device for a run; call it before DeepSpeed is imported.

    Raises:
        ConfigError: The machine cannot compute the run, or has no device for this rank.
    """
    check_device(config)
    from bigtrain.parallel.device import choose_device

    return choose_device(config.parallel.device, ranks)


def _find_problems(config: RunConfig, kind: DeviceKind) -> list[str]:
    problems = find_device_problems(config, kind)
    uses_transformer_engine = config.train.kernels == "transformer_engine"
    if not problems and uses_transformer_engine and find_spec("transformer_engine") is None:
        problems = [
            "train.kernels=transformer_engine: Transformer Engine is not installed; install "
            "transformer-engine[pytorch], or set train.kernels=torch"
        ]
    return problems
