"""The figures of a run's report: progress, losses, baselines, speed. No torch."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.checkpoint.dangling_links import check_links
from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.run_checkpoints import original_of
from bigtrain.checkpoint.schema import WEIGHT, CheckpointError
from bigtrain.checkpoint.step_folders import committed_folders
from bigtrain.checkpoint.storage_folder import FolderError
from bigtrain.config import RunConfig
from bigtrain.config.saved import load_run_of
from bigtrain.plan.parameters import count_parameters
from bigtrain.runs.ngram_baselines import Baselines, count_baselines
from bigtrain.runs.run_folder import RunFolder
from bigtrain.track.metrics_file import read_metrics
from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.labels.label_table import open_label_table


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
    """None if the corpus is no longer at its path."""
    tokens_trained: int
    parameters: int | None
    """Weights in the newest checkpoint, without padding; 0 if there is none, None if it cannot be
    read."""
    first_loss: float
    last_loss: float
    validation: dict[str, float]
    """The newest validation figures; empty if there are none."""
    baselines: Baselines | None
    tokens_per_second: float
    wandb_folder: Path | None
    copied_from: Path | None = None
    """The run folder that this one was copied from; None once the copy has been trained itself."""

    @property
    def validation_loss(self) -> float | None:
        """The loss over all validation corpora together, in ``unit``."""
        return self.validation.get("loss")

    @property
    def unit(self) -> str:
        """The unit of the losses; BERT's is the sum of nats per token and nats per pair."""
        return self.config.objective_traits.loss_unit

    @property
    def can_generate(self) -> bool:
        """Whether the model can continue a text."""
        return self.config.model.traits.is_causal and not self.config.is_classifier

    @property
    def can_export(self) -> bool:
        """Whether there is an exporter for the model."""
        return not self.config.is_classifier


def read_report(run_dir: Path) -> Report:
    """Reads the figures of a run from its folder and its corpora.

    Raises:
        FolderError: The folder is a dangling link.
        ReportError: The folder holds no run that has taken a step.
    """
    check_links(run_dir)
    folder = RunFolder(run_dir)
    if (problem := folder.explain_no_run()) is not None:
        raise ReportError(problem)
    steps = read_metrics(folder.metrics, "train") if folder.metrics.is_file() else []
    if not steps:
        raise ReportError(f"{run_dir}: the run has not taken a step yet")
    config = load_run_of(run_dir)
    try:
        corpus_tokens: int | None = sum(
            _count_tokens(config, name) for name in config.data.training_corpora
        )
        baselines = _baselines(config)
    except InputError:  # A report is possible without the corpus.
        corpus_tokens, baselines = None, None
    validations = read_metrics(folder.metrics, "validation")
    status = json.loads(folder.status.read_text())
    return Report(
        config=config,
        state=status["state"],
        step=steps[-1]["step"],
        corpus=", ".join(config.data.training_corpora),
        corpus_tokens=corpus_tokens,
        tokens_trained=steps[-1]["tokens"],
        parameters=_count_saved_parameters(folder, config),
        first_loss=_numbers_of(steps[0])["loss"],
        last_loss=_numbers_of(steps[-1])["loss"],
        validation=_numbers_of(validations[-1]) if validations else {},
        baselines=baselines,
        tokens_per_second=_median([line["tokens_per_second"] for line in steps]),
        wandb_folder=_newest_wandb_folder(folder.wandb),
        copied_from=original_of(run_dir),
    )


def _numbers_of(event: dict[str, Any]) -> dict[str, float]:
    return {
        name: math.nan if value is None else value
        for name, value in event.items()
        if name not in ("attempt", "split", "step", "time")
    }


def _count_saved_parameters(folder: RunFolder, config: RunConfig) -> int | None:
    """Counts the weights in the newest checkpoint, without the padding of the vocabulary."""
    try:
        newest = next(iter(committed_folders(folder.checkpoints)), None)
        if newest is None:
            return 0
        return CheckpointReader(newest).count(WEIGHT) - _padding(config)
    except (CheckpointError, FolderError, OSError):  # A report is possible without it.
        return None


def _padding(config: RunConfig) -> int:
    model = config.model
    if config.is_classifier:  # Only the embedding has rows for the vocabulary.
        return (model.padded_vocab_size - model.vocab_size) * model.hidden_size
    return count_parameters(model).padding


def _count_tokens(config: RunConfig, name: str) -> int:
    if config.data.reads_label_tables:
        with open_label_table(Path(name)) as table:
            return table.manifest.num_tokens
    with open_corpus(name) as corpus:
        return corpus.num_tokens


def _baselines(config: RunConfig) -> Baselines | None:
    data = config.data
    trained, measured = data.training_corpora, data.validation_corpora
    if data.packing != "concat" or len(trained) > 1 or len(measured) != 1:
        return None  # The baselines are measured on the targets of one token stream.
    with open_corpus(trained[0]) as train, open_corpus(measured[0]) as validation:
        return count_baselines(
            train,
            validation,
            sequence_length=config.data.sequence_length,
            samples=config.validation.samples,
        )


def _newest_wandb_folder(folder: Path) -> Path | None:
    runs: list[Path] = sorted(folder.glob("*run-*"), key=lambda path: path.stat().st_mtime)
    return runs[-1] if runs else None


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
