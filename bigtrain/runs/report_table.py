"""A run's report as a table for the terminal, and the commands that may come next. No torch."""

import shlex
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bigtrain.checkpoint.run_checkpoints import fork_command
from bigtrain.runs.report_figures import Report
from bigtrain.runs.run_folder import RunFolder


def render_report(report: Report, *, exported: Path | None, sample: str | None = None) -> Table:
    """Renders the figures as a table for a terminal.

    Args:
        report: The figures.
        exported: The folder of the exported model, if there is one.
        sample: Text that the exported model generated.
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
    """Renders the commands that may come next, in lines to copy."""
    config, run = report.config, report.config.run_dir
    again = ["bigtrain", "launch", str(run)]
    more = 5 * config.train.steps
    longer = [*again, f"name={config.name}-long", f"train.steps={more}"]
    if config.checkpoint.load is not None and not config.checkpoint.load_weights_only:
        # Otherwise it would resume with the learning-rate decay of the shorter run.
        longer.append("checkpoint.load=")
    commands = [longer]
    if report.parameters and report.can_generate:
        commands.insert(0, ["bigtrain", "generate", str(exported or run), "import os"])
    if config.model.num_layers % 2 == 0:
        layout = ["parallel.tensor=1", "parallel.pipeline=2"]
        commands.append([*again, f"name={config.name}-pipeline", *layout])
    if exported is None and report.parameters and report.can_export:
        commands.insert(0, ["bigtrain", "export-hf", str(run), f"exports/{config.name}"])
    if report.step < config.train.steps:
        commands.insert(0, RunFolder(run).resume_command())
    return "\n".join(["next:", *(f"  {shlex.join(command)}" for command in commands)])


def _rows(report: Report, exported: Path | None) -> list[tuple[str, str]]:
    size = "not found" if report.corpus_tokens is None else f"{report.corpus_tokens:,} tokens"
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
            (
                "  unigram baseline",
                _render_baseline(report.baselines.unigram, report.validation_loss),
            ),
            (
                "  bigram baseline",
                _render_baseline(report.baselines.bigram, report.validation_loss),
            ),
        ]
    rows += [
        (f"  {name.removeprefix('loss/')}", f"{loss:.4f} {report.unit}")
        for name, loss in report.validation.items()
        if name.startswith("loss/")
    ]
    rows += _accuracies(report.validation)
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


def _accuracies(figures: dict[str, float]) -> list[tuple[str, str]]:
    """Renders the rows with the accuracies of a BERT, a classifier, or a model of answers."""
    if "answer_accuracy" in figures:
        return [("answers", f"{figures['answer_accuracy']:.1%} of their tokens right")]
    if "f1" in figures:
        classes = [
            f"{name.removeprefix('f1/')} {value:.3f}"
            for name, value in figures.items()
            if name.startswith("f1/")
        ]
        return [
            ("accuracy", f"{figures['accuracy']:.1%}"),
            ("F1", f"{figures['f1']:.3f} mean of classes ({', '.join(classes)})"),
            ("Matthews", f"{figures['matthews']:.3f}"),
        ]
    if "mlm_accuracy" not in figures:
        return []
    tokens, commonest = figures["mlm_accuracy"], figures["commonest_accuracy"]
    return [
        ("masked tokens", f"{tokens:.1%} right; always the most common token: {commonest:.1%}"),
        ("sentence pairs", f"{figures['sentence_accuracy']:.1%} classified correctly"),
    ]


def _render_baseline(baseline: float, loss: float) -> str:
    side = "below" if loss < baseline else "above"
    return f"{baseline:.4f}; the model is {abs(baseline - loss):.4f} {side} it"
