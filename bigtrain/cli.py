"""The command ``bigtrain``: registers the commands; shows an error as one line and an exit code."""

import sys
import traceback
from typing import Annotated

import typer

from bigtrain.commands import (
    cancel,
    evaluate,
    export_hf,
    generate,
    import_hf,
    keys,
    launch,
    logs,
    parity,
    preflight_rank,
    report,
    requeue,
    rewind,
    status,
    stop,
    supervise,
    train,
    wandb_sync,
    which,
)
from bigtrain.commands.checkpoint.group import app as checkpoint_app
from bigtrain.commands.cluster_init import app as cluster_app
from bigtrain.commands.error_report import explain, write_error_report
from bigtrain.commands.usage_errors import ClickError, render_usage_error
from data_tools.cli import app as data_app

app = typer.Typer(
    name="bigtrain",
    help="Pretrain GPT, Llama and BERT: from text to a checked Hugging Face model.",
    no_args_is_help=True,
    rich_markup_mode=None,  # Loading rich for the help would take a third of its time.
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data", help="Text → tokenizer, token tars and manifest.")
app.add_typer(
    checkpoint_app, name="checkpoint", help="List, describe, verify, compare and prune checkpoints."
)
app.add_typer(cluster_app, name="cluster", help="Profiles of clusters, for `launch --cluster`.")
app.add_typer(wandb_sync.app, name="wandb", help="Upload what runs recorded without a network.")
app.command(short_help="Start a run here or on a cluster, or resume it.")(launch.launch)
app.command(short_help="List the keys of a run's config.")(keys.keys)
app.command(short_help="Train as one rank of a run.")(train.train)
app.command("train-rank", hidden=True)(train.train_rank)
app.command("import-hf", short_help="Make a checkpoint of a Hugging Face folder.")(
    import_hf.import_hf
)
app.command("export-hf", short_help="Write a verified Hugging Face folder.")(export_hf.export_hf)
app.command(short_help="Measure a model on corpora.")(evaluate.evaluate)
app.command("evaluate-rank", hidden=True)(evaluate.evaluate_rank)
app.command(short_help="Continue a prompt with a trained model.")(generate.generate)
app.command(short_help="Show the status of a run, or list the runs.")(status.status)
app.command(short_help="Show the output of a run.")(logs.logs)
app.command(short_help="Save, then end a run.")(stop.stop)
app.command(short_help="End a run at once.")(cancel.cancel)
app.command(short_help="Put a run into the queue again.")(requeue.requeue)
app.command(short_help="Show the results of a run.")(report.report)
app.command(short_help="Set a run back to a checkpoint.")(rewind.rewind)
app.command(short_help="Check that layouts train the same model.")(parity.parity)
app.command(hidden=True)(supervise.supervise)
app.command("parity-rank", hidden=True)(parity.parity_rank)
app.command("preflight-rank", hidden=True)(preflight_rank.preflight_rank)
data_app.command(short_help="Shows the documents of a step.")(which.which)

_INTERRUPTED = 130
"""The exit code after Ctrl-C."""
_RESUMABLE = {("data", "shard"), ("data", "clean")}
"""Commands that resume when they are called again; `launch` prints its own message."""


def _show_version(wanted: bool) -> None:
    if wanted:
        from bigtrain.commands.version import render_version

        typer.echo(render_version())
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the versions of bigtrain and its main dependencies, and exit.",
        ),
    ] = False,
) -> None:
    """Handles the options that can be given without a command."""


def main() -> None:
    """Runs the command. An error that a user can correct is one line and exit code 2."""
    try:
        sys.exit(app(prog_name="bigtrain", standalone_mode=False) or 0)
    except ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        typer.echo(f"bigtrain: {render_usage_error(error)}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED and tuple(sys.argv[1:3]) in _RESUMABLE:
            typer.echo("bigtrain: stopped; run the same command again to continue", err=True)
        raise
    except Exception as error:
        message, exit_code, is_expected = explain(error)
        divergence = getattr(error, "divergence", None)  # Of a DivergedError.
        report_file = write_error_report(message, exit_code, divergence=divergence)
        if not is_expected and report_file is None:
            traceback.print_exc()
        elif not is_expected:
            # Often another rank failed first; the launcher reports that rank.
            message = f"{message[:200]} (traceback: {report_file})"
        if report_file is None or not is_expected:
            typer.echo(f"bigtrain: {message}", err=True)
        sys.exit(exit_code)


if __name__ == "__main__":
    main()
