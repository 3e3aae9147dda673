"""The front door: the command ``bigtrain``. A subcommand's work is imported when it is called."""

import sys
import traceback
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bigtrain.checkpoint.commands.app import add_prune
from bigtrain.checkpoint.commands.app import app as checkpoint_app
from bigtrain.config.arguments import expanded
from bigtrain.evaluate.which_command import add_which
from bigtrain.failures import explain, leave_error_report
from bigtrain.usage import ClickError, render_usage_error
from data_tools.cli import app as data_app

if TYPE_CHECKING:
    from bigtrain.config import RunConfig

app = typer.Typer(
    name="bigtrain",
    help="Pretrain GPT, Llama and BERT: from text to a checked Hugging Face model.",
    no_args_is_help=True,
    rich_markup_mode=None,  # Loading rich for the help would take a third of its time.
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data", help="Text → tokenizer, token tars and manifest.")
app.add_typer(
    checkpoint_app, name="checkpoint", help="Look at checkpoints, verify, compare, prune."
)

_INTERRUPTED = 130
"""The exit code after Ctrl-C."""
_GO_ON = {("data", "shard"), ("data", "clean")}
"""Commands that go on where they were stopped; `launch` says so itself."""

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG.yaml|RUN... [KEY=VALUE...]",
        help="YAML files, merged left to right, or a run folder such as runs/gpt-tiny; then "
        "overrides such as train.steps=50.",
    ),
]
Run = Annotated[
    Path, typer.Argument(callback=expanded, help="A run folder, such as runs/gpt-tiny.")
]
AcceptChange = Annotated[
    list[str],
    typer.Option(
        "--accept-change", help="Key that may differ from the checkpoint's; repeat for more."
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from bigtrain.version import render_version

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
            help="Show the versions of bigtrain and of what it runs on, and exit.",
        ),
    ] = False,
) -> None:
    """Takes the options that belong to no command."""


@app.command(short_help="Start a run on this machine, or resume it.")
def launch(
    sources: Sources,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes here; one copy of the model (tensor × pipeline) when not given.",
            min=1,
        ),
    ] = None,
    accept_change: AcceptChange = [],  # noqa: B006 - typer reads the default, nobody writes it
) -> None:
    """Starts a run on this machine, or resumes it from its newest checkpoint."""
    from bigtrain.train.ending import record_end
    from bigtrain.train.resume import check_run
    from bigtrain.train.run_folder import RunFolder
    from bigtrain.train.skips import resolve_run
    from launcher.local import LocalJob, render_failure, run_local

    config = resolve_run(sources)
    count = processes or config.parallel.model_parallel_size
    config.data_parallel_size(count)
    check_run(config, accepted=accept_change)
    accepted = [word for key in accept_change for word in ("--accept-change", key)]
    folder = RunFolder(config.run_dir)
    with folder.launch_file(config) as file:
        job = LocalJob(
            command=(sys.executable, "-m", "bigtrain.cli", "train-rank", str(file), *accepted),
            processes=count,
            log_dir=folder.logs,
        )
        processes_of = "process" if count == 1 else "processes"
        typer.echo(f"starting {count} {processes_of} of run {config.name}", err=True)
        result = run_local(job)
    if result.failure is not None:
        typer.echo(f"bigtrain: {render_failure(result.failure)}", err=True)
    record_end(folder, result)
    raise typer.Exit(result.exit_code)


@app.command(short_help="List the keys of a run's config.")
def keys(
    section: Annotated[
        str | None, typer.Argument(help="Only this section, such as parallel.")
    ] = None,
) -> None:
    """Lists every key of a run's config with its default and meaning, as YAML to copy from."""
    from bigtrain.config.keys import render_keys

    for line in render_keys(section):
        typer.echo(line)


@app.command(short_help="Train as one rank of a run.")
def train(sources: Sources, accept_change: AcceptChange = []) -> None:  # noqa: B006
    """Trains as one rank of a run; `bigtrain launch` or torchrun starts all of them."""
    from bigtrain.environment import read_ranks
    from bigtrain.train.skips import resolve_run

    _train(resolve_run(sources, readers=read_ranks().world_size), accept_change)


@app.command("train-rank", hidden=True)
def train_rank(config: Path, accept_change: AcceptChange = []) -> None:  # noqa: B006
    """Trains as one rank with a config that `bigtrain launch` has resolved and checked."""
    from bigtrain.config.sources import load_resolved_config

    _train(load_resolved_config(config), accept_change)


def _train(config: "RunConfig", accept_change: list[str]) -> None:
    from bigtrain.environment import read_ranks
    from bigtrain.track.console import set_up_logging
    from bigtrain.train.run_folder import RunFolder

    ranks = read_ranks()
    _be_quiet()
    set_up_logging(ranks.rank, RunFolder(config.run_dir).logs / "rank-0.log")
    from bigtrain.parallel.device import choose_device

    device = choose_device(config.parallel.device, ranks)
    from bigtrain.train.run import train as run_training

    run_training(config, ranks=ranks, device=device, accept_changes=accept_change)


@app.command("export-hf", short_help="Write a verified Hugging Face folder.")
def export_hf(
    checkpoint: Annotated[
        str,
        typer.Argument(
            callback=expanded, help="A checkpoint, or a run folder (its newest one); may be a URL."
        ),
    ],
    out: Annotated[str, typer.Argument(callback=expanded, help="Folder to make; must not exist.")],
    text: Annotated[
        list[Path],
        typer.Option(
            callback=expanded,
            help="Text file to compare on, besides the validation corpus; repeat for more.",
        ),
    ] = [],  # noqa: B006
) -> None:
    """Writes a checkpoint as a Hugging Face folder, and keeps it only if it is the same model."""
    _be_quiet()
    _check_is_there(checkpoint)
    from bigtrain.convert.export import export_hugging_face, render_export

    texts = [path.read_text(encoding="utf-8") for path in text]
    for line in render_export(export_hugging_face(checkpoint, out, texts=texts)):
        typer.echo(line)


@app.command(short_help="Continue a prompt with a trained model.")
def generate(
    model: Annotated[
        str,
        typer.Argument(
            callback=expanded,
            help="An exported folder, a checkpoint (may be a URL) or a run folder.",
        ),
    ],
    prompt: Annotated[str, typer.Option(help="Text to continue; empty begins a document.")] = "",
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens to add; 64, or what fits, when not given.", min=1)
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="0 takes the most likely token.", min=0.0)
    ] = 0.8,
    top_p: Annotated[
        float, typer.Option(help="Probability mass to choose from.", min=0.0, max=1.0)
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
) -> None:
    """Continues a prompt with a trained model."""
    _be_quiet()
    _check_is_there(model)
    from bigtrain.convert.generate import Sampling, continue_text

    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    typer.echo(prompt + continue_text(model, prompt, sampling))


@app.command(short_help="Show what came of a run.")
def report(
    run: Run,
    exported: Annotated[
        Path | None,
        typer.Option(callback=expanded, help="Exported folder to name, and to sample from."),
    ] = None,
    prompt: Annotated[str, typer.Option(help="What the sample continues.")] = "",
) -> None:
    """Shows what came of a run: losses beside counted baselines, speed, and where things are."""
    _be_quiet()
    from rich.console import Console

    from bigtrain.evaluate.report import read_report, render_next_commands, render_report

    figures = read_report(run)
    sample = None
    if exported is not None and figures.can_generate:
        from bigtrain.convert.generate import Sampling
        from bigtrain.convert.generate import generate as continue_text

        sample = prompt + continue_text(exported, prompt, Sampling())
    Console().print(render_report(figures, exported=exported, sample=sample))
    typer.echo(render_next_commands(figures, exported=exported))


@app.command(short_help="Take a run back to a checkpoint.")
def rewind(
    run: Run,
    to: Annotated[int, typer.Option(help="Step of the checkpoint; 0 is the beginning.", min=0)],
    skip_steps: Annotated[
        str | None,
        typer.Option(metavar="A:B", help="Leave out what these steps read, both included."),
    ] = None,
    skip_samples: Annotated[
        str | None,
        typer.Option(metavar="FIRST:COUNT", help="Leave out samples, as `data which` counts."),
    ] = None,
) -> None:
    """Sets newer checkpoints aside, and notes samples that the run leaves out from there on."""
    from bigtrain.train.rewind import render_rewound, rewind_run

    for line in render_rewound(
        rewind_run(run, to=to, skip_steps=skip_steps, skip_samples=skip_samples)
    ):
        typer.echo(line)


@app.command(short_help="Prove that layouts train the same model.")
def parity(
    sources: Sources,
    layout: Annotated[
        list[str],
        typer.Option(help='Such as "tensor=2 data=2 zero=1"; repeat for more. None: all that fit.'),
    ] = [],  # noqa: B006
    steps: Annotated[int, typer.Option(help="Steps taken in each layout.", min=1)] = 5,
    tolerances: Annotated[
        str, typer.Option(help='What passes, such as "loss=1e-5 parameters=1e-4".')
    ] = "",
    max_ranks: Annotated[
        int, typer.Option(help="Processes of the largest layout tried unasked.", min=2)
    ] = 4,
) -> None:
    """Takes a run's first steps in several layouts and compares each with one process.

    What rounding alone does is measured first, and named where it is more than the tolerance.
    """
    from bigtrain.config import load_run_config
    from bigtrain.parity.command import plan_parity, run_parity

    plan = plan_parity(
        load_run_config(sources),
        layouts=layout,
        steps=steps,
        tolerances=tolerances,
        most_ranks=max_ranks,
    )
    raise typer.Exit(0 if run_parity(plan, start=_start_parity_ranks, echo=typer.echo) else 1)


def _start_parity_ranks(config: Path, processes: int, folder: Path, **numbers: int) -> Any:
    from bigtrain.parity.run import Problem
    from launcher.local import LocalJob, run_local

    words = [str(config), "--folder", str(folder)]
    words += [f"--{name.replace('_', '-')}={number}" for name, number in numbers.items()]
    command = (sys.executable, "-m", "bigtrain.cli", "parity-rank", *words)
    job = LocalJob(command=command, processes=processes, log_dir=folder, threads_per_process=1)
    result = run_local(job)
    if result.failure is not None:
        return Problem(result.failure.message, is_refusal=result.failure.exit_code == 2)
    if result.interrupted:
        raise typer.Exit(result.exit_code)
    return None


@app.command("parity-rank", hidden=True)
def parity_rank(
    config: Path,
    folder: Annotated[Path, typer.Option()],
    steps: Annotated[int, typer.Option()],
    perturbed_runs: Annotated[int, typer.Option()] = 0,
) -> None:
    """Takes the steps of one layout as one of its ranks; `bigtrain parity` starts all of them."""
    from bigtrain.config.sources import load_resolved_config
    from bigtrain.environment import read_ranks

    run, ranks = load_resolved_config(config), read_ranks()
    _be_quiet()
    from bigtrain.parallel.device import choose_device

    device = choose_device(run.parallel.device, ranks)
    from bigtrain.parity.measure import measure

    numbers = {"steps": steps, "perturbed_runs": perturbed_runs}
    measure(run, ranks=ranks, device=device, folder=folder, **numbers)


def _lock_run(run: Path) -> AbstractContextManager[None]:
    from bigtrain.train.run_folder import RunFolder

    return RunFolder(run).locked()


add_prune(lock=_lock_run)
add_which(data_app)


def _check_is_there(model: str) -> None:
    """Reports a missing model before torch is imported, which takes seconds."""
    from bigtrain.checkpoint.find_checkpoint import find_checkpoint

    if not (Path(model) / "config.json").is_file():
        find_checkpoint(model)


def _be_quiet() -> None:
    """Keeps foreign banners out of a command's answer."""
    from bigtrain.environment import quiet_foreign_libraries

    quiet_foreign_libraries()
    warnings.filterwarnings("ignore")


def main() -> None:
    """Runs the command; what a user can mend is one line and exit code 2, with no traceback."""
    try:
        sys.exit(app(prog_name="bigtrain", standalone_mode=False) or 0)
    except ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            sys.exit(2)
        typer.echo(f"bigtrain: {render_usage_error(error)}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED and tuple(sys.argv[1:3]) in _GO_ON:
            typer.echo("bigtrain: stopped; the same command goes on from here", err=True)
        raise
    except Exception as error:
        message, exit_code, is_expected = explain(error)
        report = leave_error_report(message, exit_code)
        if not is_expected and report is None:
            traceback.print_exc()
        elif not is_expected:
            # Often only the echo of another rank's end, which the launcher names.
            message = f"{message[:200]} (traceback: {report})"
        if report is None or not is_expected:
            typer.echo(f"bigtrain: {message}", err=True)
        sys.exit(exit_code)


if __name__ == "__main__":
    main()
