"""`bigtrain report`: shows the figures of a run."""

from pathlib import Path
from typing import Annotated

import typer

from bigtrain.commands.arguments import Run
from bigtrain.commands.quiet_libraries import quiet_libraries
from bigtrain.config.path_arguments import expanded


def report(
    run: Run,
    exported: Annotated[
        Path | None,
        typer.Option(
            callback=expanded, help="Exported folder to show, and to generate a sample with."
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(help="Text that the sample continues.")] = "",
) -> None:
    """Shows the results of a run: losses and n-gram baselines, speed, paths of its files."""
    quiet_libraries()
    from rich.console import Console

    from bigtrain.runs.report_figures import read_report
    from bigtrain.runs.report_table import render_next_commands, render_report

    figures = read_report(run)
    sample = None
    if exported is not None and figures.can_generate:
        from bigtrain.generate.options import Decoding
        from bigtrain.generate.prompts import prompts_of_arguments
        from bigtrain.generate.text_model import TextModel

        decoding = Decoding(sample=True, temperature=0.8, top_p=0.95)
        [found] = TextModel(exported).continue_prompts(prompts_of_arguments([prompt]), decoding)
        sample = prompt + found.text
    Console().print(render_report(figures, exported=exported, sample=sample))
    typer.echo(render_next_commands(figures, exported=exported))
