"""The samples that a rewound run leaves out, and how they join its config. No torch.

They are the run's own affair: whoever starts it again, with whichever files, need not repeat them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from bigtrain.config import ConfigError, RunConfig, load_run_config
from bigtrain.config.data import DataConfig, SkipConfig, merge_skips
from bigtrain.config.yaml12 import parse_yaml, render_yaml

SKIP_FILE = "skip.yaml"


def read_skips(run_dir: Path) -> tuple[SkipConfig, ...]:
    """The ranges that `bigtrain rewind` has written; none where it never did.

    Raises:
        ConfigError: The file is not what it wrote.
    """
    path = run_dir / SKIP_FILE
    if not path.is_file():
        return ()
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
        return tuple(SkipConfig.model_validate(skip) for skip in values["data"]["skip"])
    except (ValidationError, ConfigError, UnicodeDecodeError, KeyError, TypeError):
        raise ConfigError(
            f"{path}: not as `bigtrain rewind` writes it; mend or remove it"
        ) from None


def render_skips(skips: Iterable[SkipConfig]) -> str:
    """The file, as YAML that could be given to a run as well."""
    return render_yaml({"data": {"skip": [skip.model_dump() for skip in skips]}})


def resolve_run(sources: Sequence[str], *, readers: int = 1) -> RunConfig:
    """Reads all that decides a run, once: its files, overrides, and skip.yaml.

    The config records the working folder in `relative_to`, so that its relative paths keep their
    meaning when it is read from another folder.

    Args:
        sources: Files and overrides.
        readers: How many processes read them.

    Raises:
        ConfigError: Something cannot be read, or does not fit together; or a source is a pipe,
            which gives its content once, and there are several readers.
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


def with_skips(config: RunConfig, *, run_dir: Path | None = None) -> RunConfig:
    """The config of a run with what it was rewound to leave out.

    Args:
        config: The run.
        run_dir: Its folder, where it is not ``config.run_dir``.

    Raises:
        ConfigError: The run's skip.yaml cannot be read.
    """
    written = read_skips(run_dir or config.run_dir)
    if not written:
        return config
    skips = merge_skips([*config.data.skip, *written])
    data: DataConfig = config.data.model_copy(update={"skip": skips})
    return config.model_copy(update={"data": data})
