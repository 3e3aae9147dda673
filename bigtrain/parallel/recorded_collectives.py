"""What torch's flight recorder knows about the last collectives of this rank, for the hang report.

torch records the collectives of gloo and of NCCL, each with a number that all ranks of its process
group share. A rank that is behind in its numbers is one that the others wait for.
"""

import json
from collections.abc import Iterator
from typing import Any

from torch._C import _distributed_c10d

_DUMPS = ("_dump_fr_trace_json", "_dump_nccl_trace_json")
"""Functions of torch that return the records as JSON: of other backends, and of NCCL."""


def render_recorded_collectives() -> str:
    """For each process group the newest collective of this rank, and the first that is pending.

    Returns:
        JSON, as `launcher.supervisor.collectives` reads it: a list of objects with ``group`` (its
        name), ``description``, ``newest`` (the number of the newest collective) and ``pending``:
        null, or an object with ``number`` (null for a send or a receive), ``name`` and ``sizes``.
    """
    dumps = [
        getattr(_distributed_c10d, name)() for name in _DUMPS if hasattr(_distributed_c10d, name)
    ]
    entries = [each for dump in dumps for each in json.loads(dump).get("entries", [])]
    return json.dumps([*_summarise(entries)])


def _summarise(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        name, description = entry["process_group"]
        groups.setdefault((name, description), []).append(entry)
    for (name, description), found in groups.items():
        collectives = [entry["collective_seq_id"] for entry in found if not entry["is_p2p"]]
        pending = [entry for entry in found if not _has_ended(entry)]
        yield {
            "group": name,
            "description": description,
            "newest": max(collectives, default=0),
            "pending": _describe(pending[0]) if pending else None,
        }


def _has_ended(entry: dict[str, Any]) -> bool:
    return bool(entry["retired"]) or entry["state"] == "completed"


def _describe(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "number": None if entry["is_p2p"] else entry["collective_seq_id"],
        "name": entry["profiling_name"].partition(":")[2] or entry["profiling_name"],
        "sizes": entry["input_sizes"],
    }
