"""`bigtrain data`: the commands of this package, each from its own module."""

import typer

from data_tools.commands import corpora, text

app = typer.Typer(
    help="Text to a tokenizer and token tars.", no_args_is_help=True, rich_markup_mode=None
)
for command in (text.tokenizer, text.shard, corpora.inspect):
    app.command()(command)
