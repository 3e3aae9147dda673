"""`bigtrain data`: the commands of this package, each from its own module."""

import typer

from data_tools.commands import clean, corpora, samples, text

app = typer.Typer(
    help="Text to a tokenizer and token tars.", no_args_is_help=True, rich_markup_mode=None
)
for command in (
    clean.clean,
    text.tokenizer,
    text.shard,
    text.seal,
    samples.samples,
    corpora.inspect,
    corpora.verify,
    corpora.index,
):
    app.command()(command)
app.command("import-megatron")(corpora.import_megatron)
app.command("export-megatron")(corpora.export_megatron)
