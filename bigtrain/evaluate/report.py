"""What came of a run, as one short table. No torch."""

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from bigtrain.checkpoint.dangling_links import check_links
from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.run_checkpoints import fork_command, original_of
from bigtrain.checkpoint.schema import WEIGHT, CheckpointError
from bigtrain.checkpoint.step_folders import committed_folders
from bigtrain.checkpoint.storage_folder import Folder, FolderError
from bigtrain.config import RunConfig
from bigtrain.config.model import ModelConfig
from bigtrain.config.saved import load_run_of
from bigtrain.evaluate.baselines import Baselines, count_baselines
from bigtrain.plan.parameters import count_parameters as plan_parameters
from bigtrain.track.metrics_file import read_metrics
from bigtrain.train.run_folder import RunFolder
from data_tools.corpus import open_corpus
from data_tools.errors import InputError


class ReportError(ValueError):
    """There is nothing to report on; the message is one line and says why."""


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a run."""

    config: RunConfig
    state: str
    step: int
    corpus: str
    corpus_tokens: int | None
    """None when the corpus is not where it was."""
    tokens_trained: int
    parameters: int | None
    """Weights in the newest checkpoint, without padding; 0 before the first, None when they are
    not where they were."""
    first_loss: float
    last_loss: float
    validation: dict[str, float]
    """The newest figures of the validation corpora; empty without any."""
    baselines: Baselines | None
    tokens_per_second: float
    wandb_folder: Path | None
    copied_from: Path | None = None
    """The run whose folder this one is a copy of, until the copy is trained itself."""

    @property
    def validation_loss(self) -> float | None:
        """Over all validation corpora together, in ``unit``."""
        return self.validation.get("loss")

    @property
    def unit(self) -> str:
        """Of the losses; a BERT's is the sum of nats per token and nats per pair."""
        return "nats" if self.config.model.kind == "bert" else "nats/token"

    @property
    def can_generate(self) -> bool:
        """Whether the model continues texts."""
        return self.config.model.kind == "gpt"


def read_report(run_dir: Path) -> Report:
    """Gathers the figures of a run from its folder and its corpora.

    Raises:
        FolderError: The folder is a link to nothing.
        ReportError: The folder holds no run that has taken a step.
    """
    check_links(run_dir)
    folder = RunFolder(run_dir)
    if (problem := folder.no_run_here()) is not None:
        raise ReportError(problem)
    steps = read_metrics(folder.metrics, "train") if folder.metrics.is_file() else []
    if not steps:
        raise ReportError(f"{run_dir}: the run has not taken a step yet")
    config = load_run_of(run_dir)
    try:
        corpus_tokens: int | None = sum(map(_count_tokens, config.data.corpora))
        baselines = _baselines(config)
    except InputError:  # The run's story does not need its corpus.
        corpus_tokens, baselines = None, None
    validations = read_metrics(folder.metrics, "validation")
    status = json.loads(folder.status.read_text())
    return Report(
        config=config,
        state=status["state"],
        step=steps[-1]["step"],
        corpus=", ".join(config.data.corpora),
        corpus_tokens=corpus_tokens,
        tokens_trained=steps[-1]["tokens"],
        parameters=_count_saved(folder, config.model),
        first_loss=_figures(steps[0])["loss"],
        last_loss=_figures(steps[-1])["loss"],
        validation=_figures(validations[-1]) if validations else {},
        baselines=baselines,
        tokens_per_second=_median([line["tokens_per_second"] for line in steps]),
        wandb_folder=_newest(folder.wandb),
        copied_from=original_of(run_dir),
    )


def _figures(event: dict[str, Any]) -> dict[str, float]:
    return {
        name: math.nan if value is None else value
        for name, value in event.items()
        if name not in ("attempt", "split", "step")
    }


def count_parameters(checkpoints: Folder, model: ModelConfig) -> int:
    """Weights in the newest checkpoint, without padding; 0 when there is none.

    Raises:
        CheckpointError: It cannot be read.
        OSError: The store does not answer.
    """
    folders = committed_folders(checkpoints)
    if not folders:
        return 0
    return CheckpointReader(folders[0]).count(WEIGHT) - plan_parameters(model).padding


def _count_saved(folder: RunFolder, model: ModelConfig) -> int | None:
    try:
        return count_parameters(folder.checkpoints, model)
    except (CheckpointError, FolderError, OSError):  # The run's story does not need them either.
        return None


def render_report(report: Report, *, exported: Path | None, sample: str | None = None) -> Table:
    """The figures as a table for a terminal.

    Args:
        report: The figures.
        exported: Where the exported model is, if there is one.
        sample: Text that it generated.
    """
    steps = report.config.train.steps
    table = Table(
        title=f"{report.config.name}: {report.state} at step {report.step} of {steps}",
        show_header=False,
    )
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(report, exported):
        table.add_row(name, Text(value))
    if sample is not None:
        table.add_row("sample", Text(sample))
    return table


def render_next_commands(report: Report, *, exported: Path | None) -> str:
    """What to type next, in lines that can be pasted."""
    config, run = report.config, report.config.run_dir
    again = ["bigtrain", "launch", str(run)]
    more = 5 * config.train.steps
    longer = [*again, f"name={config.name}-long", f"train.steps={more}"]
    if config.checkpoint.load is not None and not config.checkpoint.load_weights_only:
        longer.append("checkpoint.load=")  # It would go on with the decay of the shorter run.
    commands = [longer]
    if report.parameters and report.can_generate:
        commands.insert(0, ["bigtrain", "generate", str(exported or run), "--prompt", "import os"])
    if config.model.num_layers % 2 == 0:
        layout = ["parallel.tensor=1", "parallel.pipeline=2"]
        commands.append([*again, f"name={config.name}-pipeline", *layout])
    if exported is None and report.parameters:
        commands.insert(0, ["bigtrain", "export-hf", str(run), f"exports/{config.name}"])
    if report.step < config.train.steps:
        commands.insert(0, RunFolder(run).launch_words())
    return "\n".join(["next:", *(f"  {shlex.join(command)}" for command in commands)])


def _rows(report: Report, exported: Path | None) -> list[tuple[str, str]]:
    size = "not here" if report.corpus_tokens is None else f"{report.corpus_tokens:,} tokens"
    rows = [
        ("corpus", f"{report.corpus}, {size}"),
        ("trained on", f"{report.tokens_trained:,} tokens"),
        ("parameters", _shown_parameters(report.parameters)),
        ("training loss", f"{report.first_loss:.4f} → {report.last_loss:.4f} {report.unit}"),
    ]
    if report.validation_loss is not None:
        rows.append(("validation loss", f"{report.validation_loss:.4f} {report.unit}"))
    if report.validation_loss is not None and report.baselines is not None:
        rows += [
            ("  unigram baseline", _against(report.baselines.unigram, report.validation_loss)),
            ("  bigram baseline", _against(report.baselines.bigram, report.validation_loss)),
        ]
    rows += [
        (f"  {name.removeprefix('loss/')}", f"{loss:.4f} {report.unit}")
        for name, loss in report.validation.items()
        if name.startswith("loss/")
    ]
    rows += _guesses(report.validation)
    rows += [
        ("speed", f"{report.tokens_per_second:,.0f} tokens/s (median step)"),
        ("run folder", str(report.config.run_dir)),
        ("wandb run", str(report.wandb_folder or "none")),
    ]
    if report.copied_from is not None:
        rows.append(("copy of", f"{report.copied_from}; fork: {fork_command(report.copied_from)}"))
    return [*rows, ("exported model", str(exported))] if exported is not None else rows


def _shown_parameters(parameters: int | None) -> str:
    if parameters is None:
        return "no checkpoint can be read"
    return f"{parameters:,}" if parameters else "no checkpoint yet"


def _guesses(figures: dict[str, float]) -> list[tuple[str, str]]:
    """How much a BERT guesses right."""
    if "mlm_accuracy" not in figures:
        return []
    tokens, commonest = figures["mlm_accuracy"], figures["commonest_accuracy"]
    return [
        ("masked tokens", f"{tokens:.1%} right; the commonest token alone is {commonest:.1%}"),
        ("sentence pairs", f"{figures['sentence_accuracy']:.1%} told apart"),
    ]


def _against(baseline: float, loss: float) -> str:
    side = "below" if loss < baseline else "above"
    return f"{baseline:.4f}; the model is {abs(baseline - loss):.4f} {side} it"


def _count_tokens(name: str) -> int:
    with open_corpus(name) as corpus:
        return corpus.num_tokens


def _baselines(config: RunConfig) -> Baselines | None:
    data = config.data
    if data.packing != "concat" or len(data.corpora) > 1 or len(data.validations) != 1:
        return None  # They are counted over the very targets of one stream.
    with open_corpus(data.corpora[0]) as train, open_corpus(data.validations[0]) as validation:
        return count_baselines(
            train,
            validation,
            sequence_length=config.data.sequence_length,
            samples=config.validation.samples,
        )


def _newest(folder: Path) -> Path | None:
    runs: list[Path] = sorted(folder.glob("*run-*"), key=lambda path: path.stat().st_mtime)
    return runs[-1] if runs else None


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
