"""`bigtrain data`: the commands of this package, each from its own module."""

import typer

from data_tools.commands import (
    clean,
    cluster_options,
    corpus,
    label,
    megatron,
    samples,
    shard,
    tokenizer,
)

app = typer.Typer(
    help="Make a tokenizer and token tars from text.", no_args_is_help=True, rich_markup_mode=None
)
for command in (
    clean.clean,
    tokenizer.tokenizer,
    shard.shard,
    shard.seal,
    cluster_options.status,
    samples.samples,
    label.label,
    corpus.inspect,
    corpus.verify,
    corpus.index,
):
    app.command()(command)
app.command("import-megatron")(megatron.import_megatron)
app.command("export-megatron")(megatron.export_megatron)
