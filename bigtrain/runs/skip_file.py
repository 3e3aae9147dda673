"""``skip.yaml``: the samples that a rewound run skips, and how they join its config. No torch.

The file stays in the run folder, so every later attempt skips the same samples.
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.data import DataConfig, SkipConfig, merge_skips
from bigtrain.config.yaml12 import parse_yaml, render_yaml

SKIP_FILE = "skip.yaml"


def read_skips(run_dir: Path) -> tuple[SkipConfig, ...]:
    """Reads the ranges that `bigtrain rewind` wrote; empty if there is no file.

    Raises:
        ConfigError: The file is not as `bigtrain rewind` writes it.
    """
    path = run_dir / SKIP_FILE
    if not path.is_file():
        return ()
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
        return tuple(SkipConfig.model_validate(skip) for skip in values["data"]["skip"])
    except (ValidationError, ConfigError, UnicodeDecodeError, KeyError, TypeError):
        raise ConfigError(f"{path}: not as `bigtrain rewind` writes it; fix or remove it") from None


def render_skips(skips: Iterable[SkipConfig]) -> str:
    """Renders the file: YAML that a run also accepts as a config file."""
    return render_yaml({"data": {"skip": [skip.model_dump() for skip in skips]}})


def with_skips(config: RunConfig, *, run_dir: Path | None = None) -> RunConfig:
    """Adds the ranges of the run's skip.yaml to ``data.skip``.

    Args:
        config: The run's config.
        run_dir: Its folder, if that is not ``config.run_dir``.

    Raises:
        ConfigError: skip.yaml cannot be read.
    """
    written = read_skips(run_dir or config.run_dir)
    if not written:
        return config
    skips = merge_skips([*config.data.skip, *written])
    data: DataConfig = config.data.model_copy(update={"skip": skips})
    return config.model_copy(update={"data": data})
