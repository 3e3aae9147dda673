"""`bigtrain checkpoint`: each command imports its work when it is called."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from bigtrain.config.arguments import expanded

if TYPE_CHECKING:
    from bigtrain.checkpoint.commands.prune import RunLock
    from bigtrain.checkpoint.storage_folder import Folder

app = typer.Typer(
    help="Look at checkpoints, verify, compare and prune them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines instead.")]
Workers = Annotated[int, typer.Option(help="Threads; each reads another file.", min=1)]
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
    """Lists what lies among a run's checkpoints, newest first, without reading tensors."""
    from bigtrain.checkpoint.commands import inventory

    entries = inventory.list_checkpoints(run)
    if as_json:
        typer.echo(json.dumps([inventory.entry_as_json(entry) for entry in entries], indent=1))
    elif not entries:
        typer.echo(f"{run}: no checkpoint yet")
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(inventory.render_table(entries))
    else:
        for line in inventory.render_list(entries):
            typer.echo(line)


@app.command(short_help="Read checkpoints to the last byte.")
def verify(
    places: Annotated[
        list[str],
        typer.Argument(
            callback=expanded,
            metavar="CHECKPOINT...",
            help="Checkpoints, or runs (their newest ones); URLs too.",
        ),
    ],
    every: Annotated[bool, typer.Option("--all", help="Every checkpoint of a run.")] = False,
    workers: Workers = 1,
) -> None:
    """Reads checkpoints to the last byte and names every fault; exit code 1 if there is one."""
    from bigtrain.checkpoint.commands.inventory import checkpoints_meant
    from bigtrain.checkpoint.commands.verify import render_verification, verify_checkpoint

    folders = [folder for place in places for folder in checkpoints_meant(place, every=every)]
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
    top: Annotated[int, typer.Option(help="Tensors named that differ most.", min=0)] = 5,
) -> None:
    """Shows how far B is from A, whatever layouts saved them; exit code 0 if all bits are equal.

    State and config are shown; weights and moments alone decide the exit code.
    """
    from bigtrain.checkpoint.commands.compare import compare_checkpoints, render_comparison

    result = compare_checkpoints(_find(a), _find(b))
    for line in render_comparison(result, top=top):
        typer.echo(line)
    raise typer.Exit(0 if result.same_bits else 1)


@app.command(short_help="Tell what a checkpoint is.")
def info(
    checkpoint: Checkpoint,
    as_json: AsJson = False,
    config: Annotated[
        bool, typer.Option("--config", help="The run's config as YAML, for `bigtrain launch`.")
    ] = False,
) -> None:
    """Tells what a checkpoint is: its model, run, data, layout and files."""
    from bigtrain.checkpoint.commands import describe
    from bigtrain.checkpoint.commands.render import align_columns

    folder = _find(checkpoint)
    if config:
        typer.echo(describe.render_saved_config(folder), nl=False)
        return
    what = describe.describe_checkpoint(folder)
    if as_json:
        typer.echo(json.dumps(describe.description_as_json(what), indent=1, ensure_ascii=False))
        return
    for line in align_columns([*describe.render_description(what)]):
        typer.echo(line)


def add_prune(*, lock: "RunLock") -> None:
    """Adds the command `prune`; the caller knows how a run is kept from being trained."""

    @app.command(short_help="Delete checkpoints that a run no longer needs.")
    def prune(
        run: Annotated[
            str, typer.Argument(callback=expanded, help="A run folder, such as runs/gpt-tiny.")
        ],
        keep_last: Annotated[
            int | None,
            typer.Option(help="Newest that stay; checkpoint.keep_last when not given.", min=1),
        ] = None,
        keep_every: Annotated[
            int | None,
            typer.Option(
                help="Multiples of this step stay too; checkpoint.keep_every when not given.",
                min=1,
            ),
        ] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Tell what would go, and stop.")
        ] = False,
        set_aside: Annotated[
            bool,
            typer.Option("--set-aside", help="Also delete what was set aside as bad or rewound."),
        ] = False,
    ) -> None:
        """Deletes what nobody asked to keep, once the newest checkpoint has been verified."""
        from bigtrain.checkpoint.commands import prune as work

        folder = work.run_of(run)
        wish = work.Wish(keep_last, keep_every, set_aside=set_aside)
        if dry_run:
            for line in work.render_plan(work.plan_prune(folder, wish)):
                typer.echo(line)
            return
        result = work.prune(folder, wish, lock=lock)
        for line in work.render_pruned(result):
            typer.echo(line)
        raise typer.Exit(1 if result.failed else 0)


def _find(place: str) -> "Folder":
    """The checkpoint that a user means; tells which newer ones were passed over."""
    from bigtrain.checkpoint.commands.inventory import one_checkpoint

    folder, passed_over = one_checkpoint(place)
    for line in passed_over:
        typer.echo(line, err=True)
    return folder
