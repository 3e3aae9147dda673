"""Which layouts `bigtrain parity` compares with one process. Pure; no torch."""

from collections.abc import Iterable, Sequence

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.layout import Layout, make_layout, parse_layout

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
"""Every kind of parallelism, and combinations of two."""


def parse_layouts(texts: Sequence[str]) -> list[Layout]:
    """Reads the layouts that a user asks for.

    Raises:
        ConfigError: A layout cannot be read, or none is left to compare with one process.
    """
    layouts = without_repeats(parse_layout(text) for text in texts)
    if texts and not layouts:
        raise ConfigError(
            "every layout is compared with one process; give another layout, such as "
            '--layout "tensor=2"'
        )
    return layouts


def layouts_to_compare(config: RunConfig, *, most_ranks: int) -> list[Layout]:
    """The standard layouts of at most ``most_ranks`` ranks, and the config's own if it differs.

    The config does not set the number of data ranks: its own layout has two with ZeRO, else one.
    """
    standard = [parse_layout(text) for text in STANDARD]
    own = own_layout(config)
    if own != Layout() and own not in standard:
        standard.insert(0, own)
    return [layout for layout in standard if layout.world_size <= most_ranks]


def own_layout(config: RunConfig) -> Layout:
    """The layout of the config itself."""
    return make_layout(config.parallel, data=2 if config.parallel.zero else 1)


def without_repeats(layouts: Iterable[Layout]) -> list[Layout]:
    """Each layout once; one process is left out, because all are compared with it."""
    return [layout for layout in dict.fromkeys(layouts) if layout != Layout()]
