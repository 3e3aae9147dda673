"""`bigtrain evaluate` and the hidden `evaluate-rank`: how well a model predicts corpora."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bigtrain.commands.quiet_libraries import quiet_libraries
from bigtrain.config.path_arguments import expanded


class PrecisionName(StrEnum):
    """In which type forward passes are computed."""

    FP32 = "fp32"
    BF16 = "bf16"


Model = Annotated[
    str,
    typer.Argument(
        metavar="RUN|FOLDER",
        callback=expanded,
        help="A run folder (its newest checkpoint), a checkpoint (may be a URL), or an exported "
        "Hugging Face folder.",
    ),
]
Corpora = Annotated[
    list[str],
    typer.Argument(metavar="[CORPUS]...", callback=expanded, help="Corpus folders or URLs."),
]
Step = Annotated[
    int | None, typer.Option(help="Step of the checkpoint; default: the newest.", min=0)
]
Processes = Annotated[
    int | None, typer.Option(help="Number of ranks; default: one copy of the model.", min=1)
]
LayoutName = Annotated[
    str | None,
    typer.Option(
        help='Layout of the ranks, such as "data=2" or "one process"; default: that of the run.'
    ),
]
Length = Annotated[
    int | None,
    typer.Option(
        help="Tokens in a window; default: the run's data.sequence_length, or all that the "
        "exported model reads.",
        min=1,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        help="Tokens from one window to the next; default: the length. With fewer, windows "
        "overlap, and each token has more context.",
        min=1,
    ),
]
Precision = Annotated[
    PrecisionName | None,
    typer.Option(help="Type of the forward passes; default: the run's, or fp32."),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        metavar="TASKS",
        help="Also run these tasks of EleutherAI's lm-evaluation-harness on the verified export: "
        "names or YAML files, separated by commas. Needs bigtrain[eval].",
    ),
]


def evaluate(
    model: Model,
    corpora: Corpora = [],  # noqa: B006
    step: Step = None,
    processes: Processes = None,
    layout: LayoutName = None,
    length: Length = None,
    stride: Stride = None,
    precision: Precision = None,
    lm_eval: Tasks = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measures the loss, perplexity and bits per byte of a model on corpora.

    Every token of a corpus is predicted exactly once, the first from an end-of-document token. A
    run that reads packed rows predicts all but the first token of each document, as in training.
    Bits per byte divides the loss of all these tokens by the bytes of the text that they decode to;
    special tokens are no text. A BERT gives the losses and accuracies of masked tokens and of
    sentence pairs. The result of a run is also written into its folder: RUN/evaluations/.
    """
    quiet_libraries()
    from bigtrain.commands.evaluation import Options, evaluate_model, show_result

    options = Options(
        corpora=tuple(corpora),
        tasks=tuple(lm_eval.split(",")) if lm_eval else (),
        step=step,
        processes=processes,
        layout=layout,
        length=length,
        stride=stride,
        precision=None if precision is None else precision.value,
    )
    show_result(evaluate_model(model, options), as_json=as_json)


def evaluate_rank(folder: Path) -> None:
    """Evaluates as one rank; `bigtrain evaluate` starts all of them."""
    from bigtrain.environment import read_ranks
    from bigtrain.evaluate.request import read_request
    from bigtrain.track.console import set_up_logging

    (_, config), ranks = read_request(folder), read_ranks()
    quiet_libraries()
    set_up_logging(ranks.rank)
    from bigtrain.parallel.device_check import check_and_choose_device

    device = check_and_choose_device(config, ranks)
    from bigtrain.evaluate.measure import evaluate_as_rank

    evaluate_as_rank(folder, config, ranks=ranks, device=device)
