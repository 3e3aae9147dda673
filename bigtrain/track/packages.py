"""Checks, before a run starts, that the packages of the chosen sinks are installed."""

from importlib.util import find_spec

from bigtrain.config import ConfigError, RunConfig


def check_packages(config: RunConfig) -> None:
    """Checks that every sink that the config asks for has its package.

    Raises:
        ConfigError: One is missing; the message names the extra to install.
    """
    needed = {
        "track.tensorboard=true": ("tensorboardX", "tensorboard", config.track.tensorboard),
        f"track.mlflow={config.track.mlflow}": (
            "mlflow",
            "mlflow",
            config.track.mlflow is not None,
        ),
    }
    for key, (module, extra, is_used) in needed.items():
        if is_used and find_spec(module) is None:
            raise ConfigError(
                f"{key} needs the package {module}, which is not installed: run "
                f"`pip install 'bigtrain[{extra}]'`, or leave the key out"
            )
