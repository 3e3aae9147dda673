"""The commands `shard` and `seal`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bigtrain.config.path_arguments import expanded
from data_tools.commands.cluster_options import (
    ArrayTask,
    Cluster,
    DryRun,
    Memory,
    NumParts,
    option_words,
    read_cluster_options,
    submit_or_show,
)
from data_tools.commands.interrupts import stop_when_interrupted
from data_tools.commands.text_options import (
    Exclude,
    Glob,
    Invalid,
    MaxDocument,
    OnInvalid,
    TextField,
    read_options,
)

if TYPE_CHECKING:
    from data_tools.cluster.request import ArrayRequest
    from data_tools.sharding.shard_corpus import ShardResult
    from data_tools.sharding.shard_options import ShardOptions

_NOT_OF_PARTS = {
    *("tokenizer", "out", "workers", "task"),
    *("cluster", "tasks", "memory", "dry_run"),
}
"""Parameters that are not passed on to the parts unchanged."""

ShardInputs = Annotated[
    list[str],
    typer.Argument(
        callback=expanded,
        help="Folders, globs (quote them), files and URLs of text; or only -, standard input.",
    ),
]


Tokenizer = Annotated[
    Path, typer.Option(callback=expanded, help="A .model or a tokenizer.json file.")
]
Out = Annotated[Path, typer.Option(callback=expanded, help="Folder for train/ and validation/.")]
ValidationPercent = Annotated[
    float, typer.Option(help="Percentage of documents for validation; 0 makes no split.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes; the result does not depend on it.  [default: 1; with --cluster: "
        "cpus_per_rank of the profile]"
    ),
]
TaskMb = Annotated[
    float | None,
    typer.Option(help="Input per tar in MB.  [default: 1/64 of the input, 4 to 256 MiB]"),
]
Seed = Annotated[
    int, typer.Option(help="Seed for choosing the validation split and for shuffling.")
]


def shard(
    context: typer.Context,
    inputs: ShardInputs,
    tokenizer: Tokenizer,
    out: Out,
    name: Annotated[str, typer.Option(help="Prefix of the tars' names.")] = "tokens",
    glob: Glob = None,
    exclude: Exclude = None,
    text_field: TextField = "text",
    on_invalid: Invalid = OnInvalid.stop,
    max_document_mb: MaxDocument = 256.0,
    validation_percent: ValidationPercent = 0.0,
    shuffle: Annotated[bool, typer.Option(help="Put the documents in random order.")] = False,
    sentences: Annotated[bool, typer.Option(help="Also record where sentences start.")] = False,
    workers: Workers = None,
    task: ArrayTask = None,
    cluster: Cluster = None,
    tasks: NumParts = None,
    memory: Memory = None,
    dry_run: DryRun = False,
    task_mb: TaskMb = None,
    pack_tokens: Annotated[int, typer.Option(help="Tokens per pack.")] = 1_048_576,
    seed: Seed = 0,
) -> None:
    """Turns text into token tars; run it again to continue."""
    with stop_when_interrupted():
        from data_tools.sharding.shard_options import ShardOptions

        options = ShardOptions(
            name=name,
            folder_glob=glob,
            exclude=exclude or (),
            validation_percent=validation_percent,
            task_bytes=None if task_mb is None else int(task_mb * 1e6),
            pack_tokens=pack_tokens,
            seed=seed,
            reading=read_options(text_field, on_invalid, max_document_mb),
            shuffle=shuffle,
            sentences=sentences,
        )
        request = read_cluster_options(context, workers=workers)
        if request is None:
            result = _run(inputs, tokenizer, out, options, workers, task)
        else:
            words = option_words(context, without=_NOT_OF_PARTS)
            _submit(request, inputs, tokenizer, out, options, words)
            return
    _report(result, out, task)


def seal(
    out: Annotated[
        Path, typer.Argument(callback=expanded, help="The folder that `shard --task` wrote to.")
    ],
) -> None:
    """Checks that a `shard --task` job is complete, and writes the manifests."""
    from data_tools.sharding.shard_corpus import seal_corpus

    result = seal_corpus(out)
    how = "already sealed" if result.already_done else "sealed"
    typer.echo(f"{', '.join(map(str, result.folders))}: {_summary(result)}, {how}")


def _report(result: "ShardResult", out: Path, task: str | None) -> None:
    how = "already done" if result.already_done else f"{result.tokens_per_second:,.0f} tokens/s"
    where = ", ".join(map(str, result.folders))
    if task is not None:
        where = f"{out}: {result.tasks} of {result.tasks_of_job} tars"
        how += f"; when all parts are done: bigtrain data seal {out}"
    typer.echo(f"{where}: {_summary(result)}, {how}")


def _run(
    inputs: list[str],
    tokenizer: Path,
    out: Path,
    options: "ShardOptions",
    workers: int | None,
    task: str | None,
) -> "ShardResult":
    from data_tools.jobs.array_part import parse_part
    from data_tools.sharding.shard_corpus import shard_corpus

    return shard_corpus(
        inputs,
        tokenizer=tokenizer,
        out=out,
        options=options,
        workers=1 if workers is None else workers,
        part=parse_part(task),
    )


def _submit(
    request: "ArrayRequest",
    inputs: list[str],
    tokenizer: Path,
    out: Path,
    options: "ShardOptions",
    words: list[str],
) -> None:
    from data_tools.cluster.shard_plan import plan_shard_jobs
    from data_tools.cluster.submission import check_cluster

    check_cluster(request, out.absolute())
    plan = plan_shard_jobs(
        request, inputs, tokenizer=tokenizer, out=out, options=options, option_words=words
    )
    submit_or_show(plan, request)


def _summary(result: "ShardResult") -> str:
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in result.skipped_by_reason.items())
    splits = ", ".join(f"{n:,} {split}" for split, n in result.documents_of_split.items())
    return (
        f"{result.documents:,} documents ({splits}), {result.tokens:,} tokens "
        f"of {result.bytes / 1e6:.1f} MB, {result.skipped:,} skipped"
        + (f" ({reasons})" if reasons else "")
    )
