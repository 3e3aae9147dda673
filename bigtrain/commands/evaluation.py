"""Plans an evaluation, starts its ranks, and shows and keeps the result. No torch."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from bigtrain.commands.checkpoint.formatting import align_columns
from bigtrain.config.layout import parse_layout
from bigtrain.config.saved import CONFIG_FILE
from bigtrain.evaluate.request import (
    MEASURED_FILE,
    Request,
    check_corpora,
    find_evaluated,
    plan_config,
    plan_stride,
    write_request,
)
from bigtrain.evaluate.result import make_result, render_rows, write_result
from bigtrain.parallel.device_check import check_device
from data_tools.files import render_json


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command; None where one was not given."""

    step: int | None
    processes: int | None
    layout: str | None
    length: int | None
    stride: int | None
    precision: str | None


class RanksFailedError(RuntimeError):
    """A rank failed for a reason that is no bad input; the message is one line."""


class RanksRefusedError(ValueError):
    """A rank refused its input; the message is one line."""


def evaluate_run(place: str, corpora: Sequence[str], options: Options) -> dict[str, Any]:
    """Evaluates a run or a checkpoint, and writes the result into its run folder.

    Args:
        place: A run folder, a folder of checkpoints or a checkpoint; a path or an fsspec URL.
        corpora: The corpora.
        options: The options of the command.

    Returns:
        The result, as in its file.

    Raises:
        CheckpointError: There is no such checkpoint, or it cannot be read.
        ConfigError: The layout, the length or the precision does not fit the model.
        EvaluationError: A corpus does not fit the model.
        InputError: A corpus cannot be read.
    """
    found = find_evaluated(place, step=options.step)
    for line in found.skipped:
        typer.echo(f"bigtrain: {line}", err=True)
    config, layout = plan_config(
        found.config,
        layout=None if options.layout is None else parse_layout(options.layout),
        processes=options.processes,
        length=options.length,
        precision=options.precision,
    )
    stride = plan_stride(config, options.stride)
    checked = check_corpora(config, corpora, tokenizer_sha256=found.state.tokenizer_sha256)
    check_device(config)
    request = Request(str(found.folder), tuple(corpora), stride)
    started = time.monotonic()
    with _work_folder() as folder:
        write_request(folder, request, config, checkpoint=found.folder)
        _run_ranks(folder, layout.world_size)
        figures = json.loads((folder / MEASURED_FILE).read_text(encoding="utf-8"))
    result = make_result(
        model={
            "checkpoint": str(found.folder),
            "run": found.config.name,
            "step": found.state.step,
            "tokens_trained": found.state.tokens,
            "kind": config.model.kind,
        },
        windows={
            "length": config.data.sequence_length,
            "stride": stride,
            "packing": config.data.packing,
            "separates_documents": config.data.separates_documents,
            "seed": config.seed if config.model.traits.reads_pairs else None,
        },
        corpora=checked,
        figures=figures,
        ran={
            "layout": layout.name,
            "ranks": layout.world_size,
            "precision": config.train.precision,
            "seconds": round(time.monotonic() - started, 3),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    run = Path(place)
    if (run / CONFIG_FILE).is_file():
        typer.echo(f"written to {write_result(run, result)}", err=True)
    return result


def show_result(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints a result as a table, or as JSON."""
    if as_json:
        typer.echo(render_json(result).decode(), nl=False)
        return
    rows = list(render_rows(result))
    for line in align_columns(rows, right=range(1, len(rows[0]))):
        typer.echo(line)


def _run_ranks(folder: Path, processes: int) -> None:
    from launcher.local import LocalLaunch, run_local

    command = (sys.executable, "-m", "bigtrain.cli", "evaluate-rank", str(folder))
    result = run_local(LocalLaunch(command, processes, folder))
    if result.failure is not None:
        refused = result.failure.exit_code == 2
        raise (RanksRefusedError if refused else RanksFailedError)(result.failure.message)
    if result.interrupted:
        raise typer.Exit(result.exit_code)


@contextmanager
def _work_folder() -> Iterator[Path]:
    """A temporary folder; it stays, with the logs of the ranks, if a rank failed."""
    folder = Path(tempfile.mkdtemp(prefix="bigtrain-evaluate-"))
    try:
        yield folder
    except RanksFailedError:
        typer.echo(f"logs of the ranks: {folder}", err=True)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
