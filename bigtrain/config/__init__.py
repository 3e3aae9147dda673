"""What a run is, as data: read from YAML, checked once, frozen. Never imports torch."""

from bigtrain.config.errors import ConfigError
from bigtrain.config.run import RunConfig
from bigtrain.config.sections import Section
from bigtrain.config.sources import load_config, load_run_config, render_config

__all__ = [
    "ConfigError",
    "RunConfig",
    "Section",
    "load_config",
    "load_run_config",
    "render_config",
]
