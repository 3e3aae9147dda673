"""Lines that all batch scripts share: options for sbatch, modules, variables. Pure text."""

import shlex
from collections.abc import Iterator, Mapping

from bigtrain.config.cluster import ClusterConfig

_QUEUE_OPTIONS = ("partition", "account", "qos", "reservation", "constraint")


def render_option(name: str, value: object) -> str:
    """Renders an option for sbatch as a line of a script."""
    # sbatch reads quotes as a shell does, but a backslash escapes inside single quotes, too.
    quoted = shlex.quote(str(value).replace("\\", "\\\\"))
    return f"#SBATCH --{name}={quoted}"


def render_queue_options(cluster: ClusterConfig) -> Iterator[str]:
    """Renders the options partition, account, qos, reservation and constraint of the profile."""
    for name in _QUEUE_OPTIONS:
        if (value := getattr(cluster, name)) is not None:
            yield render_option(name, value)


def render_modules(cluster: ClusterConfig) -> Iterator[str]:
    """Renders the command that loads the profile's modules; it fails if one cannot be loaded."""
    if cluster.modules:
        yield "type module >/dev/null 2>&1 || source /etc/profile"
        yield f"module load {shlex.join(cluster.modules)} || exit 1"


def render_exports(variables: Mapping[str, str]) -> Iterator[str]:
    """Renders environment variables that all commands of the script get."""
    for variable, value in variables.items():
        yield f"export {variable}={shlex.quote(value)}"
