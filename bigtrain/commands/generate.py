"""`bigtrain generate`: continues texts, answers in a chat, or fills masks with a trained model."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from bigtrain.commands.arguments import is_exported
from bigtrain.commands.quiet_libraries import quiet_libraries
from bigtrain.config.path_arguments import expanded

if TYPE_CHECKING:
    from bigtrain.generate.options import Decoding, Task
    from bigtrain.generate.prompts import Prompt
    from bigtrain.generate.results import Result
    from bigtrain.generate.text_model import TextModel

Loaded = TypeVar("Loaded")

Model = Annotated[
    str,
    typer.Argument(
        metavar="RUN|FOLDER",
        callback=expanded,
        help="A run folder (its newest checkpoint), a checkpoint (may be a URL), or an exported "
        "folder. A run keeps the export, so that the next call converts nothing.",
    ),
]
Texts = Annotated[
    list[str],
    typer.Argument(
        metavar="[PROMPT]...",
        help="Texts to continue; without any, the model begins a document.",
    ),
]
PromptsFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        callback=expanded,
        help="File of prompts, one a line; in .jsonl each line has `prompt` or `messages`.",
    ),
]
NewTokens = Annotated[
    int | None,
    typer.Option(
        help="Tokens to add; by default 64, or fewer if the model cannot read as many.", min=1
    ),
]
Sample = Annotated[
    bool, typer.Option("--sample", help="Draw tokens; by default the most likely one is taken.")
]
Temperature = Annotated[float | None, typer.Option(help="With --sample; by default 1.", min=0.0)]
TopK = Annotated[int | None, typer.Option(help="With --sample: the K most likely tokens.", min=1)]
TopP = Annotated[
    float | None, typer.Option(help="With --sample: the most likely tokens that together have P.")
]
Seed = Annotated[
    int | None,
    typer.Option(help="With --sample: the same seed gives the same text; by default 0."),
]
NumBeams = Annotated[int, typer.Option(help="Beam search with so many beams.", min=1)]
EarlyStopping = Annotated[
    bool,
    typer.Option("--early-stopping", help="With beams: end as soon as so many texts are finished."),
]
LengthPenalty = Annotated[
    float | None, typer.Option(help="With beams: above 0 prefers longer texts; by default 1.")
]
NumReturn = Annotated[int, typer.Option(help="Texts for each prompt.", min=1)]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1 makes tokens that were there less likely.")
]
NoRepeatNgram = Annotated[
    int | None, typer.Option(help="No sequence of so many tokens is generated twice.", min=1)
]
Stop = Annotated[
    list[str],
    typer.Option("--stop", help="End a text before this string; may be repeated."),
]
Stream = Annotated[bool, typer.Option("--stream", help="Show each token when it is chosen.")]
Chat = Annotated[
    bool,
    typer.Option("--chat", help="Answer lines from standard input, with the chat template."),
]
FillMask = Annotated[
    int | None,
    typer.Option(help="With a BERT: the so many most likely tokens for each mask.", min=1),
]
BatchSize = Annotated[int, typer.Option(help="Prompts that are continued together.", min=1)]
Out = Annotated[
    Path | None,
    typer.Option(callback=expanded, help="New file for the results, as JSON Lines."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON Lines instead of text.")]


def generate(
    model: Model,
    texts: Texts = [],  # noqa: B006
    prompts: PromptsFile = None,
    max_new_tokens: NewTokens = None,
    sample: Sample = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    num_beams: NumBeams = 1,
    early_stopping: EarlyStopping = False,
    length_penalty: LengthPenalty = None,
    num_return: NumReturn = 1,
    repetition_penalty: RepetitionPenalty = None,
    no_repeat_ngram: NoRepeatNgram = None,
    stop: Stop = [],  # noqa: B006
    stream: Stream = False,
    chat: Chat = False,
    fill_mask: FillMask = None,
    batch_size: BatchSize = 16,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Continues texts with a trained model, in fp32 on the CPU, through transformers."""
    from bigtrain.generate.options import Decoding, Task, check_options

    decoding = Decoding(
        max_new_tokens=max_new_tokens,
        sample=sample,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        num_beams=num_beams,
        early_stopping=early_stopping,
        length_penalty=length_penalty,
        num_return=num_return,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
        stop=tuple(stop),
    )
    task = Task(
        chat=chat,
        fill_mask=fill_mask,
        stream=stream,
        as_json=as_json,
        out=out,
        has_prompts=bool(texts or prompts),
    )
    check_options(decoding, task)
    asked = _read_prompts(texts, prompts)
    quiet_libraries()
    if not is_exported(model):
        from bigtrain.generate.check_checkpoint import check_checkpoint

        check_checkpoint(model, fills_masks=fill_mask is not None)
    _run(model, asked, decoding, task, batch_size=batch_size)


def _read_prompts(texts: Sequence[str], file: Path | None) -> "list[Prompt]":
    from bigtrain.generate.prompts import prompts_of_arguments, read_prompts

    if file is None:
        return prompts_of_arguments(texts)
    found, blank = read_prompts(file)
    if blank:
        typer.echo(f"{file}: {blank} blank lines are not prompts", err=True)
    return [*(prompts_of_arguments(texts) if texts else ()), *found]


def _run(
    place: str, prompts: "Sequence[Prompt]", decoding: "Decoding", task: "Task", *, batch_size: int
) -> None:
    results: Sequence[Result]
    if task.fill_mask is not None:
        from bigtrain.generate.masked_tokens import MaskModel

        bert = _load(place, lambda folder: MaskModel(folder, name=place))
        results = bert.fill(prompts, candidates=task.fill_mask)
    else:
        from bigtrain.generate.text_model import TextModel

        gpt = _load(place, lambda folder: TextModel(folder, name=place))
        if task.chat:
            _chat(gpt, decoding)
            return
        if task.stream:
            results = _stream(gpt, prompts, decoding)
        else:
            results = gpt.continue_prompts(prompts, decoding, batch_size=batch_size)
    _show(results, task)


def _load(place: str, load: Callable[[Path], Loaded]) -> Loaded:
    if is_exported(place):
        return load(Path(place))
    from bigtrain.convert.export_cache import verified_export

    with verified_export(place, report=lambda line: typer.echo(line, err=True)) as folder:
        return load(folder)


def _stream(
    model: "TextModel", prompts: "Sequence[Prompt]", decoding: "Decoding"
) -> "list[Result]":
    from bigtrain.generate.results import heading

    results: list[Result] = []

    def begin(prompt: "Prompt") -> None:
        if len(prompts) > 1:
            typer.echo(heading(prompt))
        _write(prompt.text)

    for result in model.stream_prompts(prompts, decoding, _write, begin=begin):
        results.append(result)
        _write("\n")
    return results


def _chat(model: "TextModel", decoding: "Decoding") -> None:
    from bigtrain.generate.chat import chat

    chat(model, decoding, _typed_lines() if sys.stdin.isatty() else sys.stdin, _write)


def _typed_lines() -> Iterator[str]:
    while True:
        typer.echo("> ", nl=False, err=True)
        if not (line := sys.stdin.readline()):
            return
        yield line


def _write(text: str) -> None:
    typer.echo(text, nl=False)


def _show(results: "Sequence[Result]", task: "Task") -> None:
    from bigtrain.generate.results import render_json_lines, render_results, write_results

    if task.out is not None:
        write_results(task.out, results)
        count = "1 result" if len(results) == 1 else f"{len(results)} results"
        typer.echo(f"{task.out}: {count}", err=True)
    if task.as_json:
        lines = render_json_lines(results)
    elif task.stream or task.out is not None:
        return
    else:
        lines = render_results(results)
    for line in lines:
        typer.echo(line)
