"""The report of a cleaning job: as JSON beside the parts, and as a table on the terminal."""

import re
from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from data_tools.cleaning.document_counts import Counts, Tally

REPORT_NAME = "report.json"
SCHEMA = "bigtrain-clean/1"
_NAME_CHARACTERS = 21  # So that the table fits 80 characters.
_MEANINGS = {
    ("skipped", "empty"): "empty in the input",
    ("dropped", "empty"): "empty after cleaning",
}


def report_dict(
    counts: Counts,
    *,
    inputs: list[dict[str, Any]],
    left_out: Mapping[str, Any],
    rules: Mapping[str, Any],
    parts: list[dict[str, Any]],
    tool_version: str,
) -> dict[str, Any]:
    """Makes the content of report.json, which depends only on the input and the options."""
    return {
        "schema": SCHEMA,
        "tool_version": tool_version,
        "inputs": inputs,
        **({"left_out": dict(left_out)} if left_out else {}),
        "rules": dict(rules),
        "documents": {
            "read": counts.documents,
            "kept": counts.kept,
            "dropped": counts.num_dropped,
            "skipped": counts.num_skipped,
        },
        "characters_read": counts.characters,
        "bytes_kept": counts.bytes_kept,
        "dropped": _tallies(counts.dropped),
        "skipped": _tallies(counts.skipped),
        "changed": {
            rule: {**tally, "changes": counts.changed[rule].changes}
            for rule, tally in _tallies(counts.changed).items()
        },
        "parts": parts,
    }


def render_report(counts: Counts) -> RenderableType:
    """Renders the report as a table for the terminal; it fits 80 columns."""
    table = Table(title=f"{counts.documents:,} documents", title_justify="left")
    table.add_column("")
    table.add_column("rule or reason", overflow="fold")
    table.add_column("documents", justify="right")
    table.add_column("share", justify="right")
    table.add_column("first", overflow="fold")
    total = max(1, counts.documents)
    table.add_row("kept", "", f"{counts.kept:,}", f"{counts.kept / total:.2%}", "")
    kinds = {"dropped": counts.dropped, "skipped": counts.skipped, "changed": counts.changed}
    for kind, tallies in kinds.items():
        table.add_section()
        for name, tally in _largest_first(tallies):
            rule = _MEANINGS.get((kind, name), name)
            share = f"{tally.documents / total:.2%}"
            documents = f"{tally.documents:,}"
            table.add_row(kind, _foldable(rule), documents, share, _foldable(tally.example))
    return table


def _foldable(name: str) -> str:
    """Wraps a long name at the ends of words."""
    lines = [""]
    for word in re.findall(r"[^._/ ]*[._/ ]?", name):
        if lines[-1] and len(lines[-1] + word.rstrip()) > _NAME_CHARACTERS:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)


def _tallies(tallies: Mapping[str, Tally]) -> dict[str, dict[str, Any]]:
    return {
        name: {"documents": tally.documents, "example": tally.example}
        for name, tally in tallies.items()
    }


def _largest_first(tallies: Mapping[str, Tally]) -> list[tuple[str, Tally]]:
    return sorted(tallies.items(), key=lambda item: (-item[1].documents, item[0]))
