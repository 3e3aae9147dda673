"""Layouts as a user writes them, and what they make of a run's config. Pure; no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.errors import render_validation_error
from bigtrain.config.sections import ParallelConfig, ProfileConfig
from bigtrain.config.yaml12 import parse_yaml

ALONE = "one process"

STANDARD = (
    "tensor=2",
    "tensor=2 sequence=true",
    "pipeline=2",
    "pipeline=2 virtual_pipeline=2",
    "data=2",
    "data=2 zero=1",
    "data=2 zero=2",
    "data=2 zero=3",
    "tensor=2 pipeline=2",
    "tensor=2 data=2 zero=1",
    "tensor=2 data=2 zero=2",
    "tensor=2 data=2 zero=3",
    "tensor=2 sequence=true data=2 zero=2",
    "tensor=2 sequence=true data=2 zero=3",
    "pipeline=2 data=2 zero=1",
    "pipeline=2 data=2 zero=2",
    "pipeline=2 data=2 zero=3",
    "pipeline=2 virtual_pipeline=2 data=2 zero=2",
    "pipeline=2 virtual_pipeline=2 data=2 zero=3",
)
"""Every mechanism, and the products in which two of them meet."""

_NOT_A_LAYOUT = {"device"}
_KEYS = tuple(key for key in (*ParallelConfig.model_fields, "data") if key not in _NOT_A_LAYOUT)


@dataclass(frozen=True, slots=True)
class Split:
    """One way to split a run: keys of ``parallel``, and the number of data ranks."""

    settings: tuple[tuple[str, int | bool], ...] = ()
    """The keys that differ from one process, in the order of the config."""
    data: int = 1

    @property
    def name(self) -> str:
        """The layout in config words."""
        words = [f"{key}={_show(value)}" for key, value in self.settings if key != "zero"]
        words += [f"data={self.data}"] if self.data > 1 else []
        words += [f"{key}={value}" for key, value in self.settings if key == "zero"]
        return " ".join(words) or ALONE

    @property
    def world_size(self) -> int:
        """Ranks that it takes."""
        settings = dict(self.settings)
        return int(settings.get("tensor", 1)) * int(settings.get("pipeline", 1)) * self.data


def parse_split(text: str) -> Split:
    """Reads a layout such as ``tensor=2 sequence=true data=2 zero=2``.

    Args:
        text: Keys of ``parallel`` and ``data``, the number of data ranks; nothing (or "one
            process") is one process.

    Raises:
        ConfigError: A word is no KEY=VALUE, an unknown key or not a positive number where one is
            meant. Whether the keys go together, `split_config` says.
    """
    words = [] if text.strip() == ALONE else text.split()
    values: dict[str, int | bool] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.removeprefix("parallel.")
        if not equals or key not in _KEYS:
            raise ConfigError(
                f"layout {text!r}: {word} is not one of {', '.join(_KEYS)} with its value; write "
                'one such as "tensor=2 data=2 zero=1"'
            )
        if key in values:
            raise ConfigError(f"layout {text!r}: {key} stands there twice; leave one out")
        values[key] = parse_yaml(value)
    data = values.pop("data", 1)
    if type(data) is not int or data < 1:
        raise ConfigError(f"layout {text!r}: data={data} is no number of data ranks; try data=2")
    try:
        parallel = ParallelConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            render_validation_error(error, ParallelConfig, f"layout {text!r}")
        ) from None
    return _split_of(parallel, data)


def splits_to_compare(config: RunConfig, *, most_ranks: int) -> list[Split]:
    """The standard layouts that take at most ``most_ranks``, and the config's own if it is another.

    The config says nothing of data ranks: its own layout gets two where ZeRO shares among them.
    """
    standard = [parse_split(text) for text in STANDARD]
    own = own_split(config)
    if own.name != ALONE and own not in standard:
        standard.insert(0, own)
    return [split for split in standard if split.world_size <= most_ranks]


def own_split(config: RunConfig) -> Split:
    """The layout of the config itself."""
    return _split_of(config.parallel, 2 if config.parallel.zero else 1)


def split_config(config: RunConfig, split: Split) -> RunConfig:
    """The run in that layout; all that is not the layout stays, but for what only a run folder has.

    Raises:
        ConfigError: The config refuses the layout.
    """
    values = config.model_dump()
    values["parallel"] = {**dict(split.settings), "device": config.parallel.device}
    values["profile"] = ProfileConfig().model_dump()
    try:
        changed = RunConfig.model_validate(values)
    except ValidationError as error:
        message = render_validation_error(error, RunConfig, "")
        raise ConfigError(message.removeprefix(": ")) from None
    changed.data_parallel_size(split.world_size)
    return changed


def without_repeats(splits: Iterable[Split]) -> list[Split]:
    """Each layout once, one process not at all: it is what all are held against."""
    return [split for split in dict.fromkeys(splits) if split.name != ALONE]


def parse_splits(texts: Sequence[str]) -> list[Split]:
    """Reads the layouts that a user asks for.

    Raises:
        ConfigError: As `parse_split`, or none is left to compare with one process.
    """
    splits = without_repeats(parse_split(text) for text in texts)
    if texts and not splits:
        raise ConfigError(
            "one process is what every layout is compared with; give another, such as "
            '--layout "tensor=2"'
        )
    return splits


def _split_of(parallel: ParallelConfig, data: int) -> Split:
    settings = parallel.model_dump(exclude=_NOT_A_LAYOUT, exclude_defaults=True)
    return Split(settings=tuple(settings.items()), data=data)


def _show(value: int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
