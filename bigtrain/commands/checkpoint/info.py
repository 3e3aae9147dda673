"""`bigtrain checkpoint info`: model, run, step, data and files of a checkpoint. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bigtrain.checkpoint.commit import check_commit, read_commit
from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import COMMIT_FILE, SCHEMA, WEIGHT, TrainState, read_state
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.commands.checkpoint.formatting import (
    describe_layout,
    render_bytes,
    render_layout,
    render_time,
)
from bigtrain.config import ConfigError, RunConfig, render_config
from bigtrain.config.model import ModelConfig
from bigtrain.config.resume_rules import load_saved_config, load_saved_model
from bigtrain.config.yaml12 import render_yaml
from bigtrain.plan.parameters import count_parameters


@dataclass(frozen=True, slots=True)
class Description:
    """What `bigtrain checkpoint info` shows."""

    folder: Folder
    state: TrainState
    config: RunConfig | None
    """None of an import, or if this version cannot read the config in the checkpoint."""
    model: ModelConfig | None
    """None if this version cannot read the config in the checkpoint."""
    parameters: int
    """Weights, without the padding of the vocabulary if the config is known."""
    files: dict[str, int]
    """Size in bytes, by file name."""
    committed: float | None
    """Seconds since 1970."""

    @property
    def layout(self) -> dict[str, int]:
        """The layout that saved the checkpoint."""
        return describe_layout(self.state.config, [*self.files])


def describe_checkpoint(folder: Folder) -> Description:
    """Reads everything in a checkpoint except its tensors.

    Raises:
        CheckpointError: The checkpoint is not complete.
    """
    check_commit(folder)
    state = read_state(folder)
    config, model = None, None
    try:
        model = load_saved_model(state.config)
        config = load_saved_config(state.config) if state.has_moments else None
    except ConfigError:
        pass
    padding = count_parameters(model).padding if model is not None else 0
    return Description(
        folder=folder,
        state=state,
        config=config,
        model=model,
        parameters=CheckpointReader(folder).count(WEIGHT) - padding,
        files={name: file["bytes"] for name, file in read_commit(folder).items()},
        committed=folder.modified(COMMIT_FILE),
    )


def render_saved_config(folder: Folder) -> str:
    """Renders the config in a checkpoint as YAML, for `bigtrain launch`; of an import, the model.

    Raises:
        CheckpointError: The checkpoint is not complete.
        ConfigError: This version cannot read the config.
    """
    check_commit(folder)
    state = read_state(folder)
    if not state.has_moments:
        return render_yaml({"model": load_saved_model(state.config).model_dump(mode="json")})
    return render_config(load_saved_config(state.config))


def description_as_json(description: Description) -> dict[str, Any]:
    """Returns the description as values for `info --json`."""
    state, config = description.state, description.config
    guard = {key: state.guard.get(key, 0) for key in ("skipped_updates", "skipped_in_a_row")}
    return {
        "path": str(description.folder),
        "schema": SCHEMA,
        "committed": render_time(description.committed) or None,
        "run": state.config.get("name"),
        "origin": state.origin,
        "step": state.step,
        "samples": state.samples,
        "tokens": state.tokens,
        "optimizer_steps": state.optimizer_steps,
        "model": state.config.get("model"),
        "parameters": description.parameters,
        "precision": config and config.train.precision,
        "layout": description.layout,
        "batch": _batch(description),
        "data": _corpora(state),
        "tokenizer_sha256": state.tokenizer_sha256,
        "wandb_id": state.wandb_id,
        "guard": guard,
        "bytes": sum(description.files.values()),
        "files": description.files,
    }


def render_description(description: Description) -> Iterator[tuple[str, str]]:
    """Yields the names and values that `info` shows."""
    facts, state = description_as_json(description), description.state
    yield "checkpoint", str(description.folder)
    yield "schema", SCHEMA
    yield "committed", render_time(description.committed)
    if state.origin is None:
        yield "run", str(facts["run"])
    else:
        yield "imported from", f"{state.origin.get('folder')}; weights only, no moments"
    steps = f" of {description.config.train.steps:,}" if description.config is not None else ""
    yield "step", f"{state.step:,}{steps} ({state.optimizer_steps:,} updates)"
    yield "trained on", f"{state.samples:,} samples, {state.tokens:,} tokens"
    yield "model", _render_model(description)
    yield "saved in layout", _render_ranks(description.layout)
    if description.model is None:
        yield "config", "does not fit this version of bigtrain"
    elif description.config is not None:
        yield "precision", f"{facts['precision']} (masters and moments are fp32)"
        yield "batch", _render_batch(facts["batch"])
    for source in facts["data"]:
        yield "corpus", _render_corpus(source)
    yield "tokenizer", state.tokenizer_sha256
    yield "wandb", state.wandb_id or "none"
    guard = facts["guard"]
    yield (
        "guard",
        f"{guard['skipped_updates']} updates skipped, {guard['skipped_in_a_row']} in a row",
    )
    yield "size", f"{render_bytes(facts['bytes'])} in {len(description.files)} files"
    for name, size in description.files.items():
        yield f"  {name}", render_bytes(size)


def _batch(description: Description) -> dict[str, Any] | None:
    if description.config is None:
        return None
    train, data_ranks = description.config.train, max(1, description.layout["data"])
    size = description.config.batch_size(description.state.samples)
    return {
        "samples": size,
        "full": train.global_batch_size,
        "micro_batch_size": train.micro_batch_size,
        "sequence_length": description.config.data.sequence_length,
        "microbatches_of_a_rank": size // (train.micro_batch_size * data_ranks),
    }


def _corpora(state: TrainState) -> list[dict[str, Any]]:
    """The corpora of each phase, with its first sample. The oldest checkpoints have one corpus."""
    return [
        {
            "first_sample": stage.get("first_sample", 0),
            "corpus": source.get("corpus"),
            "fingerprint": source.get("fingerprint"),
            "weight": source.get("weight", 1.0),
        }
        for stage in state.data_stages
        for source in stage.get("sources", [stage])
    ]


def _render_model(description: Description) -> str:
    count = f"{description.parameters:,} parameters"
    model = description.model
    if model is None:
        return f"{count}, padding included"
    return (
        f"{model.kind}, {count}: {model.num_layers} layers × {model.hidden_size}, "
        f"{model.num_heads} heads, vocabulary of {model.vocab_size:,}"
    )


def _render_batch(batch: dict[str, Any]) -> str:
    ramp = "" if batch["samples"] == batch["full"] else f" (of {batch['full']:,} at its full size)"
    return (
        f"{batch['samples']:,} samples{ramp} × {batch['sequence_length']:,} tokens, "
        f"{batch['microbatches_of_a_rank']} microbatches of {batch['micro_batch_size']} a rank"
    )


def _render_corpus(source: dict[str, Any]) -> str:
    since = f", from sample {source['first_sample']:,} on" if source["first_sample"] else ""
    weight = f"{source['weight']:g} × " if source["weight"] != 1 else ""
    return f"{weight}{source['corpus']}{since}, fingerprint {source['fingerprint']}"


def _render_ranks(layout: dict[str, int]) -> str:
    return f"{render_layout(layout)}, {layout['ranks']} rank files"
