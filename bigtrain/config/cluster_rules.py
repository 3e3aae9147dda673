"""The rules of a cluster profile: what a value may be, and which keys go together."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

if TYPE_CHECKING:
    from bigtrain.config.cluster import ClusterConfig

_SLURM_KEYS = (
    *("partition", "account", "qos", "reservation", "constraint", "exclude", "time", "sbatch"),
    *("gpu_type", "gpu_request", "memory_per_node", "bind_cores", "exclusive", "modules", "prolog"),
)
"""Keys that only a batch script of SLURM uses."""
_TIME = re.compile(
    r"(?:(?P<days>\d+)-(?P<hours>\d+)(?::(?P<minutes>\d+)(?::(?P<seconds>\d+))?)?"
    r"|(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)|(?P<mm>\d+)(?::(?P<ss>\d+))?)"
)
_WITHOUT_LIMIT = {"infinite", "unlimited"}


def parse_slurm_time(text: str) -> int | None:
    """Seconds of a time in SLURM's form: 30 (minutes), 30:00, 12:30:00, 2-12 or 2-12:30:00.

    Returns:
        None for a time without limit.

    Raises:
        ValueError: It is not a time.
    """
    if text.lower() in _WITHOUT_LIMIT:
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("write a time as 24:00:00 or 2-00:00:00 (days-hours:minutes:seconds)")
    given = {name: int(value or 0) for name, value in match.groupdict().items()}
    minutes = (given["days"] * 24 + given["hours"] + given["h"]) * 60
    minutes += given["minutes"] + given["m"] + given["mm"]
    # SLURM, too, reads a limit of zero as none.
    return minutes * 60 + given["seconds"] + given["s"] + given["ss"] or None


def _is_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("give one line of text, without control characters")
    return text


def _is_word(text: str) -> str:
    if not text or not text.isprintable() or re.search(r"[\s'\"\\]", text):
        raise ValueError("give one word, without blanks, quotes or backslashes")
    if text.startswith("-"):
        raise ValueError("a name does not begin with a dash; give options in sbatch")
    if "$" in text or text.startswith("~"):
        raise ValueError("variables and ~ are not expanded here; write it out")
    return text


def _is_sbatch_option(text: str) -> str:
    option = text.removeprefix("#SBATCH").strip()
    if not option.startswith("-"):
        raise ValueError("give the text after #SBATCH, such as --mail-type=FAIL")
    return option


def _is_time(text: str) -> str:
    parse_slurm_time(text)
    return text


def _is_environment(variables: dict[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is not a name of a variable: letters, digits and _")
        if not value.isprintable():
            raise ValueError(f"{name}: give one line of text, without control characters")
        if "$" in value or value.startswith("~"):
            raise ValueError(
                f"{name}={value}: variables and ~ are not expanded here; write it out, or add the "
                f'line export {name}="{value}" to prolog'
            )
    return variables


Line = Annotated[str, AfterValidator(_is_line)]
"""One line of text."""
Word = Annotated[str, AfterValidator(_is_word)]
"""One word: no blanks, quotes or backslashes."""
SbatchOption = Annotated[str, AfterValidator(_is_line), AfterValidator(_is_sbatch_option)]
"""An option of sbatch, as text after ``#SBATCH``."""
SlurmTime = Annotated[str, AfterValidator(_is_time)]
"""A time in SLURM's form."""
Environment = Annotated[dict[str, str], AfterValidator(_is_environment)]
"""Environment variables by name."""


def find_cluster_problems(cluster: "ClusterConfig") -> Iterator[str]:
    """Yields what does not fit together in a profile, each with its remedy."""
    if cluster.scheduler == "hosts":
        yield from _hosts_problems(cluster)
    elif cluster.hosts:
        yield "hosts is for scheduler: hosts; with slurm use partition, exclude or sbatch"
    if cluster.gpus_per_node == 0:
        if given := cluster.keys_given(("gpu_type", "gpu_request")):
            yield f"{' and '.join(given)}: gpus_per_node is 0; set it to the GPUs of a node"
    elif cluster.num_ranks_per_node > cluster.gpus_per_node:
        yield (
            f"ranks_per_node={cluster.ranks_per_node}: a rank needs a GPU of its own, and "
            f"gpus_per_node={cluster.gpus_per_node}; leave ranks_per_node out"
        )
    if cluster.cpus_per_rank is None:
        if cluster.bind_cores:
            yield "bind_cores=true needs cpus_per_rank: the number of cores of each rank"
        if not cluster.exclusive:
            yield (
                "exclusive=false needs cpus_per_rank: without it a rank gets one core of a shared "
                "node"
            )
    yield from _time_problems(cluster)


def _time_problems(cluster: "ClusterConfig") -> Iterator[str]:
    limit = None if cluster.time is None else parse_slurm_time(cluster.time)
    if limit is not None and limit <= cluster.warning_seconds + 60:
        yield (
            f"time={cluster.time} leaves no time to train before the run saves, warning_seconds="
            f"{cluster.warning_seconds} (SLURM adds up to 60) before the limit; raise time or "
            "lower warning_seconds"
        )


def _hosts_problems(cluster: "ClusterConfig") -> Iterator[str]:
    if not cluster.hosts:
        yield "scheduler=hosts needs hosts, such as hosts: [node1, node2]"
    twice = sorted({host for host in cluster.hosts if cluster.hosts.count(host) > 1})
    if twice:
        yield f"hosts: {', '.join(twice)} is given twice; for more ranks set ranks_per_node"
    if cluster.hosts and cluster.spares >= len(cluster.hosts):
        yield f"spares={cluster.spares}: {len(cluster.hosts)} hosts leave none to train on"
    if given := cluster.keys_given(_SLURM_KEYS):
        yield f"{', '.join(given)}: for scheduler: slurm only; leave it out with hosts"
    if cluster.container is not None and cluster.container.runtime == "pyxis":
        yield "container.runtime=pyxis is a part of SLURM; use apptainer with scheduler: hosts"
