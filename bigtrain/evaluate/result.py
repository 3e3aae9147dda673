"""The result of an evaluation: its schema, its file in the run folder, its table. No torch."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bigtrain.evaluate.request import EvaluatedCorpus
from bigtrain.track.json_lines import finite_values
from data_tools.files import render_json, write_file

SCHEMA = "bigtrain-evaluation/1"
FOLDER = "evaluations"
"""The folder of the results in a run folder."""

_COLUMNS: Mapping[str, tuple[str, str]] = {
    "tokens": ("tokens", ",.0f"),
    "bytes": ("bytes", ",.0f"),
    "masked_tokens": ("masked tokens", ",.0f"),
    "pairs": ("pairs", ",.0f"),
    "loss": ("nats/token", ".4f"),
    "perplexity": ("perplexity", ",.3f"),
    "bits_per_byte": ("bits/byte", ".4f"),
    "mlm_loss": ("masked loss", ".4f"),
    "mlm_accuracy": ("masked accuracy", ".1%"),
    "commonest_accuracy": ("most common token", ".1%"),
    "sentence_loss": ("pair loss", ".4f"),
    "sentence_accuracy": ("pair accuracy", ".1%"),
}
"""The figures of the table: their titles and formats."""


def make_result(
    *,
    model: Mapping[str, Any],
    windows: Mapping[str, Any],
    corpora: Sequence[EvaluatedCorpus],
    figures: Sequence[Mapping[str, float]],
    ran: Mapping[str, Any],
    tasks: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """The values of a result file, which `bigtrain/README.md` describes.

    Args:
        model: What was evaluated.
        windows: How the corpora were read.
        corpora: The corpora.
        figures: Those of each corpus, then those of all together.
        ran: How and when it was computed.
        tasks: The metrics of each task of the harness; None if none was run.
    """
    harness = {} if tasks is None else {"lm_eval": {k: finite_values(v) for k, v in tasks.items()}}
    return {
        "schema": SCHEMA,
        "model": dict(model),
        "windows": dict(windows),
        "ran": dict(ran),
        "corpora": [
            {**asdict(corpus), **finite_values(dict(each))}
            for corpus, each in zip(corpora, figures, strict=False)
        ],
        "total": finite_values(dict(figures[-1])) if corpora else {},
        **harness,
    }


def write_result(run: Path, result: Mapping[str, Any]) -> Path:
    """Writes a result into its run folder.

    The name depends on what was evaluated: evaluating the same again replaces the file.
    """
    asked = {
        "windows": result["windows"],
        "precision": result["ran"]["precision"],
        "corpora": [corpus["fingerprint"] for corpus in result["corpora"]],
        "tasks": sorted(result.get("lm_eval", {})),
    }
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    file = run / FOLDER / f"step-{result['model']['step']:08d}-{key}.json"
    write_file(file, render_json(result))
    return file


def render_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The cells of the table: the titles, each corpus, and the total if there are several."""
    if not result["corpora"]:
        return
    names = [name for name in _COLUMNS if name in result["total"]]
    if "pairs" in names:
        names.remove("loss")  # The sum of the two losses that are shown.
    yield ("corpus", *(_COLUMNS[name][0] for name in names))
    corpora = [(corpus["corpus"], corpus) for corpus in result["corpora"]]
    total = [("total", result["total"])] if len(corpora) > 1 else []
    for title, figures in (*corpora, *total):
        yield (title, *(_render(figures[name], _COLUMNS[name][1]) for name in names))


def render_tasks(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The cells of the table of the harness's tasks: the titles, then a row for each metric."""
    if "lm_eval" in result:
        yield ("task", "metric", "value")
    for task, metrics in result.get("lm_eval", {}).items():
        for name, value in metrics.items():
            yield (task, name, _render(value, ".4f"))


def _render(value: float | None, style: str) -> str:
    return "–" if value is None else format(value, style)
