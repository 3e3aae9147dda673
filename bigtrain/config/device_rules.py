"""The rules that depend on where a run computes. Pure: the kind of device is an argument."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from bigtrain.config.errors import ConfigError
from bigtrain.config.run import RunConfig

DeviceKind = Literal["cpu", "cuda"]


def device_of_nodes(config: RunConfig, *, gpus_per_node: int) -> DeviceKind:
    """What the ranks of a run compute on, on nodes of a cluster.

    Raises:
        ConfigError: The run asks for GPUs, and the nodes have none.
    """
    found: DeviceKind = "cuda" if gpus_per_node else "cpu"
    if config.parallel.device == "auto":
        return found
    if config.parallel.device != "cpu" and not gpus_per_node:
        raise ConfigError(
            f"parallel.device={config.parallel.device}: gpus_per_node of the cluster profile is 0; "
            "set it, or parallel.device=auto"
        )
    return config.parallel.device


def find_device_problems(config: RunConfig, device: DeviceKind) -> list[str]:
    """What the config asks for and this kind of device cannot do, each with its remedy."""
    return [problem for rule in _RULES[device] for problem in rule(config)]


def _separated_documents_have_no_dropout(config: RunConfig) -> Iterator[str]:
    if config.model.dropout > 0 and config.data.separates_documents:
        yield (
            f"model.dropout={config.model.dropout:g}: on a GPU, attention inside documents has no "
            "dropout; set model.dropout=0, or data.packing=concat without data.document_attention"
        )


def _transformer_engine_has_a_gpu(config: RunConfig) -> Iterator[str]:
    if config.train.kernels == "transformer_engine":
        yield (
            "train.kernels=transformer_engine: Transformer Engine computes on GPUs only; set "
            "train.kernels=torch"
        )


_RULES: Mapping[DeviceKind, tuple[Callable[[RunConfig], Iterator[str]], ...]] = {
    "cpu": (_transformer_engine_has_a_gpu,),
    "cuda": (_separated_documents_have_no_dropout,),
}
