"""What is evaluated: checkpoint, corpora and windows; checked before a rank starts. No torch."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from bigtrain.checkpoint.commit import open_state
from bigtrain.checkpoint.find_checkpoint import find_checkpoint
from bigtrain.checkpoint.run_checkpoints import checkpoints_of_run
from bigtrain.checkpoint.schema import TOKENIZER_FILE, CheckpointError, TrainState
from bigtrain.checkpoint.step_folders import CHECKPOINTS, named_folders, step_of
from bigtrain.checkpoint.storage_folder import Folder, open_folder
from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.config_files import load_resolved_config, render_config
from bigtrain.config.errors import render_validation_error
from bigtrain.config.layout import Layout, config_in_layout, make_layout
from bigtrain.config.resume_rules import load_saved_config
from bigtrain.data.corpora import open_configured_corpus, open_source
from bigtrain.evaluate.figures import EvaluationError
from data_tools.corpus import Corpus

_MICROBATCHES = 4
"""Forward passes of each stage in a row; a pipeline has as many times its number of stages."""

CONFIG_FILE, REQUEST_FILE, MEASURED_FILE = "config.yaml", "request.json", "measured.json"


@dataclass(frozen=True, slots=True)
class FoundCheckpoint:
    """A complete checkpoint, its state and the config in it."""

    folder: Folder
    state: TrainState
    config: RunConfig
    skipped: tuple[str, ...]
    """A line for each newer checkpoint that cannot be read."""


@dataclass(frozen=True, slots=True)
class EvaluatedCorpus:
    """One corpus that is evaluated."""

    corpus: str
    """Folder or URL, as given."""
    split: str
    fingerprint: str
    corpus_tokens: int
    """All tokens of the corpus."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the ranks read, beside the config."""

    checkpoint: str
    corpora: tuple[str, ...]
    stride: int
    """Tokens from one window to the next."""


def find_evaluated(place: str, *, step: int | None) -> FoundCheckpoint:
    """Finds the checkpoint to evaluate.

    Args:
        place: A run folder, a folder of checkpoints or a checkpoint; a path or an fsspec URL.
        step: The step of the checkpoint; None takes the newest.

    Raises:
        CheckpointError: There is none, or it is not complete.
        ConfigError: Its config does not fit this version.
    """
    folder, skipped = find_checkpoint(place) if step is None else (_find_step(place, step), [])
    state = open_state(folder)
    return FoundCheckpoint(folder, state, load_saved_config(state.config), tuple(skipped))


def plan_config(
    config: RunConfig,
    *,
    layout: Layout | None,
    processes: int | None,
    length: int | None,
    precision: str | None,
) -> tuple[RunConfig, Layout]:
    """The config with which the ranks evaluate, and their layout.

    Args:
        config: The config in the checkpoint.
        layout: The layout of the ranks; None takes the run's, with as many data ranks as fit.
        processes: Number of ranks; None takes the fewest.
        length: Tokens in a window; None takes data.sequence_length.
        precision: ``fp32`` or ``bf16``; None takes the run's.

    Raises:
        ConfigError: These do not fit the model or each other.
    """
    if layout is None:
        layout = _own_layout(config, processes)
    elif processes is not None:
        raise EvaluationError("--layout gives the number of processes; leave --processes out")
    values = config_in_layout(_with_batch_for(config, layout), layout).model_dump()
    if length is not None:
        values["data"]["sequence_length"] = length
    if precision is not None:
        values["train"]["precision"] = precision
    try:
        return RunConfig.model_validate(values), layout
    except ValidationError as error:
        message = render_validation_error(error, RunConfig, "")
        raise ConfigError(message.removeprefix(": ")) from None


def plan_stride(config: RunConfig, stride: int | None) -> int:
    """The number of tokens from one window of a run to the next.

    Raises:
        EvaluationError: The stride is longer than a window, or the samples are no windows.
    """
    packing = config.data.packing
    if stride is not None and packing != "concat":
        raise EvaluationError(
            f"--stride {stride} is for windows of the token stream, but the run reads rows of "
            f"sample tables (data.packing={packing}); leave --stride out"
        )
    return check_stride(stride, length=config.data.sequence_length)


def check_stride(stride: int | None, *, length: int) -> int:
    """The stride, or the length of a window if none is given.

    Raises:
        EvaluationError: It is longer than a window.
    """
    if stride is not None and stride > length:
        raise EvaluationError(
            f"--stride {stride} is longer than a window of {length} tokens, so tokens would be "
            f"left out; give at most {length}"
        )
    return stride or length


def check_corpora(
    config: RunConfig, corpora: Sequence[str], *, tokenizer_sha256: str
) -> list[EvaluatedCorpus]:
    """Opens the corpora, with their sample tables if the run reads rows of them.

    Raises:
        EvaluationError: A corpus is empty, is named twice, or was made with another tokenizer, or
            the run trains on label tables.
        InputError: A corpus, a tar of it or its sample table is missing or cannot be read.
    """
    if config.objective.kind != "pretraining":
        raise EvaluationError(
            f"the run trains {config.objective.kind} on label tables, which `bigtrain evaluate` "
            f"does not measure yet; `bigtrain report {config.run_dir}` shows its validation"
        )
    found: list[EvaluatedCorpus] = []
    for name in corpora:
        with ExitStack() as opened:
            corpus = opened.enter_context(open_configured_corpus(config.data, name))
            described = describe_corpus(corpus, name)
            sha256 = corpus.manifest.tokenizer.sha256
            if sha256 != tokenizer_sha256:
                raise EvaluationError(
                    f"{name}: made with tokenizer {sha256[:12]}, but the model was trained with "
                    f"{tokenizer_sha256[:12]}; shard the text with the tokenizer.model in the "
                    "checkpoint"
                )
            check_named_once(described, found)
            if config.data.packing != "concat":
                opened.enter_context(open_source(config.data, name))
        found.append(described)
    return found


def describe_corpus(corpus: Corpus, name: str) -> EvaluatedCorpus:
    """Describes an opened corpus.

    Raises:
        EvaluationError: It has no tokens.
        InputError: A tar is missing or has another size.
    """
    if not corpus.num_tokens:
        raise EvaluationError(f"{name}: the corpus has no tokens; give one with text")
    corpus.check_files()
    manifest = corpus.manifest
    return EvaluatedCorpus(name, manifest.split, manifest.fingerprint, corpus.num_tokens)


def check_named_once(corpus: EvaluatedCorpus, before: Sequence[EvaluatedCorpus]) -> None:
    """Checks that a corpus is not one of those before it.

    Raises:
        EvaluationError: It is.
    """
    for other in before:
        if other.fingerprint == corpus.fingerprint:
            raise EvaluationError(
                f"{corpus.corpus} and {other.corpus} are the same corpus; name it once"
            )


def write_request(folder: Path, request: Request, config: RunConfig, *, checkpoint: Folder) -> None:
    """Writes the files that the ranks read."""
    (folder / CONFIG_FILE).write_text(render_config(config), encoding="utf-8")
    (folder / REQUEST_FILE).write_text(json.dumps(asdict(request)), encoding="utf-8")
    (folder / TOKENIZER_FILE).write_bytes(checkpoint.read(TOKENIZER_FILE))


def read_request(folder: Path) -> tuple[Request, RunConfig]:
    """Reads what `write_request` wrote."""
    values = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    values["corpora"] = tuple(values["corpora"])
    return Request(**values), load_resolved_config(folder / CONFIG_FILE)


def _find_step(place: str, step: int) -> Folder:
    folder = open_folder(place)
    names = folder.names()
    if "config.yaml" in names:
        checkpoints = checkpoints_of_run(Path(place))
    else:
        checkpoints = folder.child(CHECKPOINTS) if CHECKPOINTS in names else folder
    found = {step_of(each): each for each in reversed(named_folders(checkpoints))}
    if step not in found:
        steps = f"it has steps {', '.join(map(str, sorted(found)))}" if found else "it has none"
        raise CheckpointError(f"{place}: no checkpoint of step {step}; {steps}")
    return found[step]


def _own_layout(config: RunConfig, processes: int | None) -> Layout:
    """The layout of the run, with as many data ranks as there are processes for."""
    per_copy = config.parallel.model_parallel_size
    world_size = per_copy if processes is None else processes
    layout = make_layout(config.parallel, data=max(1, world_size // per_copy))
    _with_batch_for(config, layout).data_parallel_size(world_size)
    return layout


def _with_batch_for(config: RunConfig, layout: Layout) -> RunConfig:
    """The config with a batch that the data ranks divide, whatever batch the run was trained with.

    The batch of sentence pairs stays, because it decides which tokens are masked.
    """
    if config.model.traits.reads_pairs:
        return config
    size = config.train.micro_batch_size * layout.data * layout.pipeline * _MICROBATCHES
    train = config.train.model_copy(update={"global_batch_size": size, "batch_ramp": None})
    return config.model_copy(update={"train": train})
