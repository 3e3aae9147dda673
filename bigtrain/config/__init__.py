"""The config of a run: read from YAML, checked once, frozen. Never imports torch.

The names below are imported on first use, because `bigtrain --help` needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bigtrain.config.config_files import load_config, load_run_config, render_config
    from bigtrain.config.errors import ConfigError
    from bigtrain.config.run import RunConfig
    from bigtrain.config.sections import Section

__all__ = [
    "ConfigError",
    "RunConfig",
    "Section",
    "load_config",
    "load_run_config",
    "render_config",
]
_MODULES = {"ConfigError": "errors", "RunConfig": "run", "Section": "sections"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'config_files')}"), name)
