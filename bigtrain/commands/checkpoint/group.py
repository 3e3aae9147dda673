"""Registers the commands of `bigtrain checkpoint`; each imports its module when it is called."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from bigtrain.config.path_arguments import expanded

if TYPE_CHECKING:
    from bigtrain.checkpoint.storage_folder import Folder

app = typer.Typer(
    help="List, describe, verify, compare and prune checkpoints.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
Workers = Annotated[int, typer.Option(help="Threads; each reads a different file.", min=1)]
Checkpoint = Annotated[
    str,
    typer.Argument(
        callback=expanded, help="A checkpoint, or a run (its newest one); a folder or a URL."
    ),
]
Run = Annotated[
    str,
    typer.Argument(
        callback=expanded, help="A run folder, such as runs/gpt-tiny, or a folder of checkpoints."
    ),
]


@app.command("list", short_help="List the checkpoints of a run.")
def list_checkpoints(run: Run, as_json: AsJson = False) -> None:
    """Lists all folders of a run's checkpoints, newest first, without reading tensors."""
    from bigtrain.commands.checkpoint import listing

    entries = listing.list_checkpoints(run)
    if as_json:
        typer.echo(json.dumps([listing.entry_as_json(entry) for entry in entries], indent=1))
    elif not entries:
        typer.echo(f"{run}: no checkpoint yet")
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(listing.render_table(entries))
    else:
        for line in listing.render_list(entries):
            typer.echo(line)


@app.command(short_help="Check every byte of checkpoints.")
def verify(
    places: Annotated[
        list[str],
        typer.Argument(
            callback=expanded,
            metavar="CHECKPOINT...",
            help="Checkpoints, or runs (their newest ones); may be URLs.",
        ),
    ],
    every: Annotated[bool, typer.Option("--all", help="Every checkpoint of a run.")] = False,
    workers: Workers = 1,
) -> None:
    """Reads every byte of checkpoints and shows every fault; exit code 1 if there is one."""
    from bigtrain.commands.checkpoint.listing import find_checkpoints
    from bigtrain.commands.checkpoint.verify import render_verification, verify_checkpoint

    folders = [folder for place in places for folder in find_checkpoints(place, every=every)]
    faults = 0
    for folder in folders:
        result = verify_checkpoint(folder, workers=workers)
        faults += len(result.faults)
        for line in render_verification(result):
            typer.echo(line)
    raise typer.Exit(1 if faults else 0)


@app.command(short_help="Compare two checkpoints.")
def diff(
    a: Checkpoint,
    b: Checkpoint,
    top: Annotated[
        int, typer.Option(help="How many of the tensors that differ most are shown.", min=0)
    ] = 5,
) -> None:
    """Shows how B differs from A; their layouts may differ. Exit code 0 if all bits are equal.

    State and config are shown too; the exit code depends only on weights and moments.
    """
    from bigtrain.commands.checkpoint.diff import compare_checkpoints, render_comparison

    result = compare_checkpoints(_find(a), _find(b))
    for line in render_comparison(result, top=top):
        typer.echo(line)
    raise typer.Exit(0 if result.same_bits else 1)


@app.command(short_help="Describe a checkpoint.")
def info(
    checkpoint: Checkpoint,
    as_json: AsJson = False,
    config: Annotated[
        bool, typer.Option("--config", help="The run's config as YAML, for `bigtrain launch`.")
    ] = False,
) -> None:
    """Describes a checkpoint: its model, run, data, layout and files."""
    from bigtrain.commands.checkpoint import info as work
    from bigtrain.commands.checkpoint.formatting import align_columns

    folder = _find(checkpoint)
    if config:
        typer.echo(work.render_saved_config(folder), nl=False)
        return
    description = work.describe_checkpoint(folder)
    if as_json:
        typer.echo(json.dumps(work.description_as_json(description), indent=1, ensure_ascii=False))
        return
    for line in align_columns([*work.render_description(description)]):
        typer.echo(line)


@app.command(short_help="Delete checkpoints that a run no longer needs.")
def prune(
    run: Annotated[
        str, typer.Argument(callback=expanded, help="A run folder, such as runs/gpt-tiny.")
    ],
    keep_last: Annotated[
        int | None,
        typer.Option(
            help="How many of the newest to keep; by default checkpoint.keep_last.", min=1
        ),
    ] = None,
    keep_every: Annotated[
        int | None,
        typer.Option(
            help="Keep multiples of this step too; by default checkpoint.keep_every.",
            min=1,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, and delete nothing.")
    ] = False,
    set_aside: Annotated[
        bool,
        typer.Option("--set-aside", help="Also delete checkpoints set aside as bad or rewound."),
    ] = False,
) -> None:
    """Verifies the newest checkpoint, then deletes those that need not be kept."""
    from bigtrain.commands.checkpoint import prune as work

    folder = work.run_of(run)
    request = work.PruneRequest(keep_last, keep_every, set_aside=set_aside)
    if dry_run:
        for line in work.render_plan(work.plan_prune(folder, request)):
            typer.echo(line)
        return
    result = work.prune(folder, request)
    for line in work.render_pruned(result):
        typer.echo(line)
    raise typer.Exit(1 if result.failed else 0)


def _find(place: str) -> "Folder":
    """Finds the checkpoint that the user means; reports newer ones that cannot be read."""
    from bigtrain.commands.checkpoint.listing import find_one_checkpoint

    folder, skipped = find_one_checkpoint(place)
    for line in skipped:
        typer.echo(line, err=True)
    return folder
