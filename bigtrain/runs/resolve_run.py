"""Reads everything that determines a run, once: files, overrides and ``skip.yaml``. No torch."""

from collections.abc import Sequence
from pathlib import Path

from bigtrain.config import ConfigError, RunConfig, load_run_config
from bigtrain.runs.skip_file import with_skips


def resolve_run(sources: Sequence[str], *, readers: int = 1) -> RunConfig:
    """Reads the config of a run, complete and checked.

    The config records the working folder in `relative_to`, so that its relative paths keep their
    meaning when it is read from another folder.

    Args:
        sources: Files and overrides.
        readers: How many processes read them.

    Raises:
        ConfigError: A source cannot be read, or the values do not fit together; or a source is a
            pipe, which can be read only once, and there are several readers.
    """
    for source in sources if readers > 1 else ():
        if _is_pipe(source):
            raise ConfigError(
                f"{source}: a pipe can be read once, and {readers} ranks would read it; write the "
                "config to a file, or use `bigtrain launch`, which reads it once"
            )
    config = with_skips(load_run_config(sources))
    return config.model_copy(update={"relative_to": str(Path.cwd())})


def _is_pipe(source: str) -> bool:
    path = Path(source)
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    return is_special or source.startswith(("/dev/", "/proc/"))
