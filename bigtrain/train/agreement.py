"""Checks that all ranks loaded the same config and data.

Under torchrun each rank reads the files itself. Relative paths are compared as absolute ones: the
working folders of the nodes may differ.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.errors import show_value
from bigtrain.config.paths import join_relative_paths
from bigtrain.data.batches import TrainingData

_USER_ERROR = 2
"""The exit code for an error that the user can correct."""
_NODE_KEYS = ("data.cache_dir",)
"""Keys that may differ: folders on the local disk of each node."""


def check_config_agrees(
    config: RunConfig, *, accept_changes: Sequence[str], reports: bool = True
) -> None:
    """Checks that all ranks have the config of rank 0; all call it before the layout is made.

    Args:
        config: The config that this rank read.
        accept_changes: The keys that this rank got with ``--accept-change``.
        reports: If true, raise ConfigError on a difference; otherwise exit with code 2 and print
            nothing.

    Raises:
        ConfigError: The configs differ; the message names the ranks and the first key that differs.
    """
    values = values_to_compare(config) | {"--accept-change": list(accept_changes)}
    _check(values, what=f"run {config.name}: the ranks read different configs", reports=reports)


def values_to_compare(config: RunConfig) -> dict[str, Any]:
    """The values of a config that must be equal on all ranks, by key.

    Relative paths are made absolute with ``relative_to``. That key and node folders may differ.
    """
    values = config.model_dump(mode="json")
    start = values.pop("relative_to")
    if start is not None:
        values = join_relative_paths(values, RunConfig, Path(start))
    flat = _flatten(values)
    return {key: value for key, value in flat.items() if key not in _NODE_KEYS}


def check_data_agrees(config: RunConfig, data: TrainingData, *, reports: bool = True) -> None:
    """Checks that all ranks opened the same corpora and tokenizer; every rank calls it.

    Args:
        config: The run.
        data: The data that this rank opened.
        reports: See `check_config_agrees`.

    Raises:
        ConfigError: A corpus was replaced while the ranks opened it.
    """
    sources = (*data.sources, *data.validation_sources)
    values = {f"the fingerprint of {source.name}": source.fingerprint for source in sources}
    values["the tokenizer's sha256"] = data.tokenizer.sha256
    _check(values, what=f"run {config.name}: the ranks opened different data", reports=reports)


def first_differences(
    values: Sequence[Mapping[str, Any]],
) -> tuple[str, dict[int, Any]] | None:
    """The first key in which another rank's values differ from those of rank 0.

    Args:
        values: The values of each rank, by key.

    Returns:
        The key, and the value of rank 0 and of each rank that differs there; None where all are
        equal.
    """
    first = values[0]
    for key in dict.fromkeys(key for each in values for key in each):
        others = {
            rank: each.get(key)
            for rank, each in enumerate(values)
            if each.get(key) != first.get(key)
        }
        if others:
            return key, {0: first.get(key), **others}
    return None


def render_differences(key: str, values: Mapping[int, Any]) -> str:
    """One line: each value of the key, and the ranks that have it."""
    ranks: dict[str, list[int]] = {}
    for rank, value in values.items():
        ranks.setdefault(show_value(value), []).append(rank)
    return f"{key} is " + ", ".join(
        f"{value} on {_render_ranks(those)}" for value, those in ranks.items()
    )


def _check(values: dict[str, Any], *, what: str, reports: bool) -> None:
    own = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    hashes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(hashes, own)
    if len({*hashes}) == 1:
        return
    all_values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(all_values, values)
    found = first_differences(all_values)
    assert found is not None
    if not reports:
        raise SystemExit(_USER_ERROR)
    raise ConfigError(
        f"{what}: {render_differences(*found)}; make sure that all nodes have the same files, and "
        "start again"
    )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _render_ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"
