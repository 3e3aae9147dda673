"""`bigtrain wandb sync`: uploads what a run recorded in wandb without a network."""

import typer

from bigtrain.commands.arguments import Run

app = typer.Typer(
    help="Upload what runs recorded in wandb without a network.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _group() -> None:
    """Without a callback, typer would drop the word `sync`."""


@app.command(short_help="Upload the offline parts of a run.")
def sync(run: Run) -> None:
    """Uploads the parts of a run that were recorded offline, in order, as one wandb run.

    Parts that were uploaded before are skipped. Give the run folder where there is a network, for
    example on a login node.
    """
    from bigtrain.runs.wandb_parts import parts_to_upload
    from bigtrain.track.wandb_sync import check_can_upload, upload_parts

    plan = parts_to_upload(run)
    for line in plan.remarks:
        typer.echo(line)
    if not plan.parts:
        return
    check_can_upload(run / "logs" / "wandb.log")
    uploaded = upload_parts(plan.parts, run_id=plan.run_id, run_dir=run)
    for number, part in enumerate(uploaded, start=1):
        typer.echo(f"uploaded {part.folder.name} ({number} of {len(plan.parts)})")
    typer.echo(f"{run} is in wandb as run {plan.run_id}")
