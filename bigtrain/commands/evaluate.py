"""`bigtrain evaluate` and the hidden `evaluate-rank`: how well a model predicts corpora."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bigtrain.commands.quiet_libraries import quiet_libraries
from bigtrain.config.path_arguments import expanded


class Precision(StrEnum):
    """In which type forward passes are computed."""

    FP32 = "fp32"
    BF16 = "bf16"


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FOLDER",
            callback=expanded,
            help="A run folder (its newest checkpoint), a checkpoint (may be a URL), or an "
            "exported Hugging Face folder.",
        ),
    ],
    corpora: Annotated[
        list[str],
        typer.Argument(metavar="CORPUS...", callback=expanded, help="Corpus folders or URLs."),
    ],
    step: Annotated[
        int | None, typer.Option(help="Step of the checkpoint; default: the newest.", min=0)
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(help="Number of ranks; default: one copy of the model.", min=1),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help='Layout of the ranks, such as "data=2" or "one process"; default: the run\'s.'
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            help="Tokens in a window; default: the run's data.sequence_length, or all that the "
            "exported model reads.",
            min=1,
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Tokens from one window to the next; default: the length. A smaller one gives "
            "each token more context.",
            min=1,
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Type of the forward passes; default: the run's, or fp32."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measures the loss, perplexity and bits per byte of a model on corpora.

    Every token of a corpus is predicted exactly once, the first from an end-of-document token. Bits
    per byte divides the loss of all tokens by the bytes of the text that they decode to; special
    tokens are no text. A BERT gives the losses and accuracies of masked tokens and sentence pairs.
    The result of a run is also written into its folder: RUN/evaluations/.
    """
    quiet_libraries()
    from bigtrain.commands.evaluation import Options, evaluate_run, show_result

    options = Options(
        step=step,
        processes=processes,
        layout=layout,
        length=length,
        stride=stride,
        precision=None if precision is None else precision.value,
    )
    show_result(evaluate_run(model, corpora, options), as_json=as_json)


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
