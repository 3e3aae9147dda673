"""The README.md of an export: what the model is, what it was trained on, and how it was checked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bigtrain.checkpoint.schema import TrainState
from bigtrain.config.model import ModelConfig
from bigtrain.config.yaml12 import render_yaml
from bigtrain.plan.parameters import count_parameters

CARD_FILE = "README.md"
_TASKS = {True: "text-generation", False: "fill-mask"}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a model card says besides the facts of the checkpoint."""

    name: str
    """The name of the folder."""
    architecture: str
    """The class of transformers."""
    dtype: str
    """The type of the weights in the files."""
    losses: Mapping[str, float]
    """Values in nats by name, such as ``validation loss``."""
    verified: str
    """One sentence about the comparison with the checkpoint."""


def render_card(state: TrainState, model: ModelConfig, facts: CardFacts) -> str:
    """Renders the model card as Markdown with the front matter that Hugging Face reads."""
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            f"pipeline_tag: {_TASKS[model.traits.is_causal]}",
            "tags: [bigtrain]",
            "---",
            "",
            f"# {facts.name}",
            "",
            *_table(_facts(state, model, facts)),
            "",
            *_training_data(state),
            "## Config",
            "",
            "```yaml",
            render_yaml(_without_folders(state.config)).rstrip(),
            "```",
            "",
        ]
    )


def _facts(state: TrainState, model: ModelConfig, facts: CardFacts) -> Iterator[tuple[str, str]]:
    yield "class", facts.architecture
    yield "parameters", f"{count_parameters(model).total:,}"
    yield "weights", facts.dtype
    yield "longest sequence", f"{model.max_sequence_length:,} tokens"
    if state.has_moments:
        yield "run", str(state.config.get("name"))
        yield "steps", f"{state.step:,} ({state.optimizer_steps:,} updates)"
        yield "trained on", f"{state.samples:,} samples, {state.tokens:,} tokens"
    else:
        origin = state.origin or {}
        yield "imported, not trained", f"a {origin.get('architecture')}"
    for name, value in facts.losses.items():
        yield name, f"{value:.4f} nats"
    yield "tokenizer", f"sha256 {state.tokenizer_sha256}"
    yield "verified", facts.verified


def _table(rows: Iterator[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _training_data(state: TrainState) -> list[str]:
    """The corpora by their fingerprints; paths of the machine that trained are left out."""
    sources = [(stage, source) for stage in state.data_stages for source in _sources(stage)]
    if not sources:
        return []
    lines = ["## Training data", "", "| from sample | corpus | weight | fingerprint |"]
    lines.append("|---|---|---|---|")
    for stage, source in sources:
        name = str(source.get("corpus")).rstrip("/").rpartition("/")[2]
        weight = source.get("weight", 1.0)
        first = stage.get("first_sample", 0)
        lines.append(f"| {first:,} | {name} | {weight:g} | {source.get('fingerprint')} |")
    return [*lines, ""]


def _sources(stage: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = stage.get("sources", [stage])
    return found


_PLACES = ("runs_dir", "relative_to", "checkpoint", "track", "parallel", "profile")


def _without_folders(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without the sections that say where a run was, instead of what it computed."""
    kept = {key: value for key, value in config.items() if key not in _PLACES}
    data = kept.get("data")
    if isinstance(data, dict):
        local = ("cache_dir", "tokenizer", "train", "validation", "stages")
        kept["data"] = {key: value for key, value in data.items() if key not in local}
    return kept
