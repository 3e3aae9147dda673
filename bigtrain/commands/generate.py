"""`bigtrain generate`: continues a prompt with a trained model."""

from typing import Annotated

import typer

from bigtrain.commands.arguments import check_model_exists
from bigtrain.commands.quiet_libraries import quiet_libraries
from bigtrain.config.path_arguments import expanded


def generate(
    model: Annotated[
        str,
        typer.Argument(
            callback=expanded,
            help="An exported folder, a checkpoint (may be a URL) or a run folder.",
        ),
    ],
    prompt: Annotated[
        str, typer.Option(help="Text to continue; without it, the model begins a document.")
    ] = "",
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens to add; by default 64, or fewer if the model cannot read as many.", min=1
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="0 always takes the most likely token.", min=0.0)
    ] = 0.8,
    top_p: Annotated[
        float, typer.Option(help="Probability mass to choose from.", min=0.0, max=1.0)
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
) -> None:
    """Continues a prompt with a trained model."""
    quiet_libraries()
    check_model_exists(model)
    from bigtrain.convert.generate import Sampling, continue_text

    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    typer.echo(prompt + continue_text(model, prompt, sampling))
