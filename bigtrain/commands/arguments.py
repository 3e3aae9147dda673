"""Arguments and options that several commands take."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bigtrain.config.path_arguments import expanded

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG.yaml|RUN... [KEY=VALUE...]",
        help="YAML files, merged from left to right, or a run folder such as runs/gpt-tiny; then "
        "overrides such as train.steps=50.",
    ),
]
Run = Annotated[
    Path, typer.Argument(callback=expanded, help="A run folder, such as runs/gpt-tiny.")
]
NamedRun = Annotated[
    str, typer.Argument(callback=expanded, help="A run folder, or the name of a run.")
]
RunsDir = Annotated[
    Path, typer.Option(callback=expanded, help="Folder in which a run is looked up by its name.")
]
Profiles = Annotated[
    list[str],
    typer.Option(
        "--cluster",
        metavar="PROFILE.yaml",
        help="Profile of a cluster: the run is submitted there. Several are merged, and "
        "cluster.KEY=VALUE changes a key.",
    ),
]


class Renderer(StrEnum):
    """What `launch` can print instead of starting a run."""

    KUBERNETES = "kubernetes"


Render = Annotated[
    Renderer | None,
    typer.Option(help="Print Kubernetes objects for `kubectl apply -f -`; start nothing."),
]
Image = Annotated[str | None, typer.Option(help="Container image with bigtrain (with --render).")]
GpusPerNode = Annotated[
    int | None,
    typer.Option(
        help="GPUs, and ranks, of each pod (with --render): 8 if not given, 0 for CPUs.", min=0
    ),
]
AcceptChange = Annotated[
    list[str],
    typer.Option(
        "--accept-change", help="Key that may differ from the checkpoint's; may be repeated."
    ),
]


_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_bytes(text: str, *, option: str) -> int:
    """Parses a size such as 500MB.

    Args:
        text: The size.
        option: The option, for the message.

    Raises:
        BadParameter: It is not a size above 0.
    """
    number, unit = text[:-2], _UNITS.get(text[-2:].upper())
    if unit is None or not number.isdecimal() or int(number) == 0:
        raise typer.BadParameter(f"{text!r} is not a size such as 5GB or 500MB", param_hint=option)
    return int(number) * unit


def check_model_exists(model: str) -> None:
    """Checks that a model exists, before the import of torch takes seconds.

    Raises:
        CheckpointError: It is not an exported folder, a checkpoint or a run folder.
        FolderError: It is a URL that cannot be used.
    """
    from bigtrain.checkpoint.find_checkpoint import find_checkpoint

    if not is_exported(model):
        find_checkpoint(model)


def is_exported(model: str) -> bool:
    """Whether a path is an exported folder, not a checkpoint or a run folder."""
    return (Path(model) / "config.json").is_file()
