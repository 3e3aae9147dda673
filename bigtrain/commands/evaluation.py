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
from bigtrain.evaluate.figures import EvaluationError
from bigtrain.evaluate.harness import check_harness
from bigtrain.evaluate.request import (
    MEASURED_FILE,
    Request,
    check_corpora,
    check_stride,
    find_evaluated,
    plan_config,
    plan_stride,
    write_request,
)
from bigtrain.evaluate.result import make_result, render_rows, render_tasks, write_result
from bigtrain.parallel.device_check import check_device
from data_tools.files import render_json

_EXPORT_CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and how; None where an option was not given."""

    corpora: tuple[str, ...]
    tasks: tuple[str, ...]
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


def evaluate_model(place: str, options: Options) -> dict[str, Any]:
    """Evaluates a run, a checkpoint or an exported folder.

    The result of a run is written into its folder.

    Args:
        place: A run folder, a folder of checkpoints, a checkpoint (these may be URLs), or an
            exported folder.
        options: What is measured, and how.

    Returns:
        The result, as in its file.

    Raises:
        CheckpointError: There is no such checkpoint, or it cannot be read.
        ConfigError: The layout, the length or the precision does not fit the model.
        EvaluationError: The folder is no model, a corpus does not fit it, or there is nothing to
            evaluate it on.
        InputError: A corpus cannot be read.
    """
    if not options.corpora and not options.tasks:
        raise EvaluationError("nothing to evaluate on; give a corpus, or tasks with --lm-eval")
    if options.tasks:
        check_harness()
    folder = Path(place)
    if (folder / _EXPORT_CONFIG).is_file():
        return _evaluate_export(folder, options)
    if any(folder.glob("*.safetensors")):
        raise EvaluationError(
            f"{place}: no {_EXPORT_CONFIG} beside the weights; give a folder made by "
            "bigtrain export-hf, or a run folder"
        )
    result = _evaluate_checkpoint(place, options)
    if (folder / CONFIG_FILE).is_file():
        typer.echo(f"written to {write_result(folder, result)}", err=True)
    return result


def show_result(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints a result as tables, or as JSON."""
    if as_json:
        typer.echo(render_json(result).decode(), nl=False)
        return
    for rows in (list(render_rows(result)), list(render_tasks(result))):
        for line in align_columns(rows, right=range(1, len(rows[0]))) if rows else ():
            typer.echo(line)


def _evaluate_checkpoint(place: str, options: Options) -> dict[str, Any]:
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
    if options.tasks and not config.model.traits.is_causal:
        raise EvaluationError(
            f"--lm-eval: the model of {found.folder} does not predict the next token, which the "
            "tasks need; leave --lm-eval out"
        )
    stride = plan_stride(config, options.stride)
    sha256 = found.state.tokenizer_sha256
    checked = check_corpora(config, options.corpora, tokenizer_sha256=sha256)
    check_device(config)
    figures, tasks = [], None
    started = time.monotonic()
    with _work_folder() as folder:
        if checked:
            request = Request(str(found.folder), options.corpora, stride)
            write_request(folder, request, config, checkpoint=found.folder)
            _run_ranks(folder, layout.world_size)
            figures = json.loads((folder / MEASURED_FILE).read_text(encoding="utf-8"))
        if options.tasks:
            exported = _export(str(found.folder), folder / "exported")
            tasks = _run_tasks(exported, options.tasks, precision=config.train.precision)
    return make_result(
        model={
            "path": str(found.folder),
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
            "masking_seed": config.seed if config.model.traits.reads_pairs else None,
        },
        corpora=checked,
        figures=figures,
        ran=_describe_end(started, layout.name, layout.world_size, config.train.precision),
        tasks=tasks,
    )


def _evaluate_export(folder: Path, options: Options) -> dict[str, Any]:
    for name in ("step", "processes", "layout"):
        if getattr(options, name) is not None:
            raise EvaluationError(
                f"{folder} is an exported folder, which one process evaluates; --{name} is for a "
                "run folder"
            )
    from bigtrain.evaluate.hugging_face import ExportedModel
    from bigtrain.track.console import set_up_logging

    set_up_logging(0)
    precision = options.precision or "fp32"
    started = time.monotonic()
    model = ExportedModel(folder, length=options.length, precision=precision)
    stride = check_stride(options.stride, length=model.length)
    corpora, figures = model.evaluate(options.corpora, stride=stride)
    tasks = _run_tasks(folder, options.tasks, precision=precision) if options.tasks else None
    return make_result(
        model={"path": str(folder), "kind": model.architecture},
        windows={
            "length": model.length,
            "stride": stride,
            "packing": "concat",
            "separates_documents": False,
            "masking_seed": None,
        },
        corpora=corpora,
        figures=figures,
        ran=_describe_end(started, "one process", 1, precision),
        tasks=tasks,
    )


def _describe_end(started: float, layout: str, ranks: int, precision: str) -> dict[str, Any]:
    return {
        "layout": layout,
        "ranks": ranks,
        "precision": precision,
        "seconds": round(time.monotonic() - started, 3),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _run_ranks(folder: Path, processes: int) -> None:
    from launcher.local import LocalLaunch, run_local

    command = (sys.executable, "-m", "bigtrain.cli", "evaluate-rank", str(folder))
    result = run_local(LocalLaunch(command, processes, folder))
    if result.failure is not None:
        refused = result.failure.exit_code == 2
        raise (RanksRefusedError if refused else RanksFailedError)(result.failure.message)
    if result.interrupted:
        raise typer.Exit(result.exit_code)


def _export(checkpoint: str, out: Path) -> Path:
    from bigtrain.convert.export import export_hugging_face, render_export

    for line in render_export(export_hugging_face(checkpoint, out)):
        typer.echo(line, err=True)
    return out


def _run_tasks(folder: Path, tasks: Sequence[str], *, precision: str) -> dict[str, Any]:
    from bigtrain.evaluate.harness import run_harness

    return run_harness(folder, tasks, precision=precision)


@contextmanager
def _work_folder() -> Iterator[Path]:
    """A temporary folder; it stays, with the logs of the ranks, if a rank failed."""
    folder = Path(tempfile.mkdtemp(prefix="bigtrain-evaluate-"))
    keep = False
    try:
        yield folder
    except RanksFailedError:
        keep = True
        typer.echo(f"logs of the ranks: {folder}", err=True)
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
