"""The report of a cleaning job: as JSON beside the parts, and as a table on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from data_tools.cleaning.counts import Counts, Tally

REPORT_NAME = "report.json"
SCHEMA = "bigtrain-clean/1"


def report_dict(
    counts: Counts,
    *,
    inputs: list[dict[str, Any]],
    rules: Mapping[str, Any],
    parts: list[dict[str, Any]],
    tool_version: str,
) -> dict[str, Any]:
    """Collects what report.json holds; nothing in it depends on time, place or workers."""
    return {
        "schema": SCHEMA,
        "tool_version": tool_version,
        "inputs": inputs,
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
    """Makes the table that the terminal shows."""
    table = Table(title=f"{counts.documents:,} documents", title_justify="left")
    table.add_column(overflow="fold")
    table.add_column("documents", justify="right")
    table.add_column("share", justify="right")
    table.add_column("first", overflow="fold")
    total = max(1, counts.documents)
    table.add_row("kept", f"{counts.kept:,}", f"{counts.kept / total:.2%}", "")
    for what, tallies in (("dropped", counts.dropped), ("skipped", counts.skipped)):
        for name, tally in _largest_first(tallies):
            share = f"{tally.documents / total:.2%}"
            table.add_row(f"{what}: {name}", f"{tally.documents:,}", share, tally.example)
    if not counts.changed:
        return table
    return Group(table, _render_changes(counts))


def _render_changes(counts: Counts) -> Table:
    table = Table(title="changed", title_justify="left")
    table.add_column("rule", overflow="fold")
    table.add_column("documents", justify="right")
    table.add_column("changes", justify="right")
    table.add_column("first", overflow="fold")
    for name, tally in _largest_first(counts.changed):
        table.add_row(name, f"{tally.documents:,}", f"{tally.changes:,}", tally.example)
    return table


def _tallies(tallies: Mapping[str, Tally]) -> dict[str, dict[str, Any]]:
    return {
        name: {"documents": tally.documents, "example": tally.example}
        for name, tally in tallies.items()
    }


def _largest_first(tallies: Mapping[str, Tally]) -> list[tuple[str, Tally]]:
    return sorted(tallies.items(), key=lambda item: (-item[1].documents, item[0]))
