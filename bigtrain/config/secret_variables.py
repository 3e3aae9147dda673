"""Finds variables of a cluster profile that look like secrets: they would lie in files as text."""

import re
from collections.abc import Iterator

from bigtrain.config.cluster import ClusterConfig

_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)(?![A-Z])", re.IGNORECASE)
"""TOKENIZERS_PARALLELISM is not a secret."""
_ASSIGNMENT = re.compile(r"\b([A-Za-z_]\w*)=[\"']?([^\s\"';]*)")


def render_secrets_warning(cluster: ClusterConfig) -> str | None:
    """One line that names variables that look like secrets, and says where they belong.

    Returns:
        None if there are none.
    """
    names = list(dict.fromkeys(_secrets(cluster)))
    if not names:
        return None
    looks = "looks like a secret, and is" if len(names) == 1 else "look like secrets, and are"
    file = "job.json" if cluster.scheduler == "hosts" else "job.json, job.sh and SLURM's copy of it"
    way = "~/.netrc (`wandb login`) in a home that the nodes share"
    if cluster.scheduler == "slurm":
        way += ", or export it in a file of mode 600, with `source FILE` in prolog"
    return f"{', '.join(names)} of the profile {looks} written into {file}; rather use {way}"


def _secrets(cluster: ClusterConfig) -> Iterator[str]:
    given = list(cluster.environment.items())
    given += [found for line in cluster.prolog for found in _ASSIGNMENT.findall(line)]
    for name, value in given:
        # A path, or a value that the shell computes, is not the secret itself.
        if _SECRET.search(name) and value and not value.startswith(("/", "~", "$", "`")):
            yield name
