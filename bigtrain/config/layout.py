"""The layout of a run: sizes of the grid of ranks, coordinates of a rank, and the text of a layout.

Training, parity and checkpoint records share this definition. No torch.
"""

from dataclasses import dataclass, fields
from typing import Any

from pydantic import ValidationError

from bigtrain.config.errors import ConfigError, render_validation_error
from bigtrain.config.run import RunConfig
from bigtrain.config.sections import ParallelConfig, ProfileConfig
from bigtrain.config.yaml12 import parse_yaml

ONE_PROCESS = "one process"
"""The name of the layout whose sizes are all 1."""


@dataclass(frozen=True, slots=True)
class RankCoordinates:
    """The position of one rank in the grid; each number counts from 0."""

    tensor: int
    context: int
    expert: int
    data: int
    """Index among the batch ranks: ranks with different indices read different samples."""
    pipeline: int
    replica: int
    """Index among the replica ranks: the ranks that hold the same shards of the parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sizes of the grid of ranks, and the other keys of ``parallel`` that split the model.

    Ranks are numbered in megatron-core's order ``tp-cp-ep-dp-pp``: tensor ranks are neighbours,
    pipeline stages are farthest apart. Expert ranks are taken from the context and data ranks, so
    they add nothing to the world size. ``context`` and ``expert`` are 1: no config key sets them.
    """

    tensor: int = 1
    sequence: bool = False
    context: int = 1
    expert: int = 1
    pipeline: int = 1
    virtual_pipeline: int = 1
    first_stage_layers: int | None = None
    last_stage_layers: int | None = None
    offload_optimizer: bool = False
    data: int = 1
    zero: int = 0

    @property
    def world_size(self) -> int:
        """Ranks in the grid."""
        return self.tensor * self.context * self.data * self.pipeline

    @property
    def batch_ranks(self) -> int:
        """Ranks that read different samples; a loss is divided by their number."""
        return self.data

    @property
    def replica_ranks(self) -> int:
        """Ranks that hold the same shards; gradient reduction and ZeRO use these ranks."""
        return self.data * self.context

    @property
    def megatron_virtual_pipeline(self) -> int | None:
        """``virtual_pipeline`` as megatron-core takes it: None where each rank has one chunk."""
        return self.virtual_pipeline if self.virtual_pipeline > 1 else None

    @property
    def name(self) -> str:
        """The sizes that are not the default, such as ``tensor=2 data=2 zero=1``."""
        words = [
            f"{field.name}={_render(value)}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return " ".join(words) or ONE_PROCESS

    def coordinates(self, rank: int) -> RankCoordinates:
        """The coordinates of global rank ``rank``."""
        assert 0 <= rank < self.world_size
        replica = rank // self.tensor % self.replica_ranks
        return RankCoordinates(
            tensor=rank % self.tensor,
            context=replica % self.context,
            expert=replica % self.expert,
            data=replica // self.context,
            pipeline=rank // (self.tensor * self.replica_ranks),
            replica=replica,
        )


def layout_of(config: RunConfig, world_size: int) -> Layout:
    """The layout of a run on ``world_size`` ranks.

    Raises:
        ConfigError: The layout does not divide the number of ranks or the batch size.
    """
    return make_layout(config.parallel, data=config.data_parallel_size(world_size))


def make_layout(parallel: ParallelConfig, *, data: int) -> Layout:
    """The layout with ``data`` data ranks and the other sizes from ``parallel``."""
    return Layout(data=data, **parallel.model_dump(include=set(_PARALLEL_KEYS)))


def saved_layout(parallel: dict[str, Any], *, world_size: int) -> Layout:
    """The layout that a checkpoint's record describes, whichever version wrote it.

    Args:
        parallel: The section ``parallel`` of the saved config; a key that is missing is 1 or 0.
        world_size: How many ranks saved the checkpoint.
    """
    tensor, pipeline = parallel.get("tensor", 1), parallel.get("pipeline", 1)
    return Layout(
        tensor=tensor,
        pipeline=pipeline,
        data=world_size // (tensor * pipeline),
        zero=parallel.get("zero", 0),
    )


def parse_layout(text: str) -> Layout:
    """Reads a layout such as ``tensor=2 sequence=true data=2 zero=2``.

    Args:
        text: Keys of ``parallel``, and ``data``, the number of data ranks; empty text (or "one
            process") means one process.

    Raises:
        ConfigError: A word is not KEY=VALUE, or its key is unknown, or its value is not a positive
            number where one is needed. `config_in_layout` checks whether the keys fit together.
    """
    words = [] if text.strip() == ONE_PROCESS else text.split()
    values: dict[str, int | bool] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.removeprefix("parallel.")
        if not equals or key not in (*_PARALLEL_KEYS, "data"):
            raise ConfigError(
                f"layout {text!r}: {word} is not one of {', '.join((*_PARALLEL_KEYS, 'data'))} "
                'with its value; write one such as "tensor=2 data=2 zero=1"'
            )
        if key in values:
            raise ConfigError(f"layout {text!r}: {key} is given twice; leave one out")
        values[key] = parse_yaml(value)
    data = values.pop("data", 1)
    if type(data) is not int or data < 1:
        raise ConfigError(f"layout {text!r}: data={data} is not a number of data ranks; try data=2")
    try:
        parallel = ParallelConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            render_validation_error(error, ParallelConfig, f"layout {text!r}")
        ) from None
    return make_layout(parallel, data=data)


def config_in_layout(config: RunConfig, layout: Layout) -> RunConfig:
    """The config of a run in another layout, and without profiling, which needs a run folder.

    Raises:
        ConfigError: The config does not allow the layout.
    """
    values = config.model_dump()
    parallel = {key: getattr(layout, key) for key in _PARALLEL_KEYS}
    values["parallel"] = {**parallel, "device": config.parallel.device}
    values["profile"] = ProfileConfig().model_dump()
    try:
        changed = RunConfig.model_validate(values)
    except ValidationError as error:
        message = render_validation_error(error, RunConfig, "")
        raise ConfigError(message.removeprefix(": ")) from None
    changed.data_parallel_size(layout.world_size)
    return changed


_PARALLEL_KEYS = tuple(key for key in ParallelConfig.model_fields if key != "device")


def _render(value: int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
