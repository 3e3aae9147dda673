"""A whole run, and the rules that cross its sections."""

from collections.abc import Callable, Iterator
from math import gcd
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from bigtrain.config.data import DataConfig
from bigtrain.config.errors import ConfigError
from bigtrain.config.sections import (
    CheckpointConfig,
    FolderPath,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    Section,
    TrackConfig,
    TrainConfig,
    ValidationConfig,
    divisors,
)


class RunConfig(Section):
    """Everything that decides what a run does."""

    name: str
    """Names the run folder, and the run in wandb."""
    runs_dir: FolderPath = "runs"
    """Folder that holds the run folders."""
    seed: int = Field(default=1, ge=0, lt=2**63)
    """Decides initial weights, the order of the data and dropout."""
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    parallel: ParallelConfig = ParallelConfig()
    track: TrackConfig = TrackConfig()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        is_word = name == name.strip() and name.isprintable() and 0 < len(name.encode()) <= 200
        if not is_word or name.startswith(".") or set(name) & set("/\\"):
            raise ValueError(
                "a run's name is also its folder: printable, at most 200 bytes, "
                "no slash, no leading dot, no space around it; try one such as gpt-tiny"
            )
        return name

    @model_validator(mode="after")
    def _sections_agree(self) -> "RunConfig":
        problems = [problem for rule in _RULES for problem in rule(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return Path(self.runs_dir) / self.name

    @property
    def decay_steps(self) -> int:
        """The step at which the learning rate's decay ends."""
        return self.optim.decay_steps or self.train.steps

    def data_parallel_size(self, world_size: int) -> int:
        """Copies of the model among ``world_size`` ranks.

        Raises:
            ConfigError: The layout divides neither the world nor the batch.
        """
        model_ranks = self.parallel.model_parallel_size
        if world_size < 1 or world_size % model_ranks:
            raise ConfigError(
                f"parallel.tensor={self.parallel.tensor} × parallel.pipeline="
                f"{self.parallel.pipeline} needs a multiple of {model_ranks} processes, not "
                f"{world_size}; start {_next_multiple(max(world_size, 1), model_ranks)} "
                "or change the layout"
            )
        copies = world_size // model_ranks
        per_pass = copies * self.train.micro_batch_size
        if self.train.global_batch_size % per_pass:
            raise ConfigError(
                f"train.global_batch_size={self.train.global_batch_size} is no multiple of "
                f"train.micro_batch_size={self.train.micro_batch_size} × {copies} data ranks; "
                f"try {_next_multiple(self.train.global_batch_size, per_pass)}"
            )
        return copies

    def num_microbatches(self, data_parallel_size: int) -> int:
        """Forward passes of one rank in one step."""
        return self.train.global_batch_size // (data_parallel_size * self.train.micro_batch_size)


def _next_multiple(number: int, divisor: int) -> int:
    return -(-number // divisor) * divisor


def _tensor_divides_the_model(config: RunConfig) -> Iterator[str]:
    tensor, model = config.parallel.tensor, config.model
    for key, size in (
        ("model.num_heads", model.num_heads),
        ("model.ffn_hidden_size", model.feed_forward_size),
    ):
        if size % tensor:
            fits = divisors(gcd(model.num_heads, model.feed_forward_size))
            remedy = f"try {', '.join(map(str, fits[:4]))} or change {key}"
            yield f"parallel.tensor={tensor} does not divide {key}={size}; {remedy}"
    if model.padded_vocab_size % tensor:
        yield (
            f"parallel.tensor={tensor} does not divide the padded vocabulary of "
            f"{model.padded_vocab_size}; set model.vocab_multiple to a multiple of {tensor}"
        )


def _pipeline_divides_the_layers(config: RunConfig) -> Iterator[str]:
    stages, layers = config.parallel.pipeline, config.model.num_layers
    if layers % stages:
        yield (
            f"parallel.pipeline={stages} does not divide model.num_layers={layers}; "
            f"try {', '.join(map(str, divisors(layers)[:6]))}"
        )


def _sequences_fit_the_positions(config: RunConfig) -> Iterator[str]:
    length, positions = config.data.sequence_length, config.model.max_sequence_length
    if length > positions:
        yield (
            f"data.sequence_length={length} is more than model.max_sequence_length={positions}; "
            "raise the one or lower the other"
        )


def _warmup_ends_before_the_decay(config: RunConfig) -> Iterator[str]:
    decay_key = "train.steps" if config.optim.decay_steps is None else "optim.decay_steps"
    if config.optim.warmup_steps >= config.decay_steps and config.optim.schedule != "constant":
        yield (
            f"optim.warmup_steps={config.optim.warmup_steps} leaves no step for the decay, which "
            f"ends at step {config.decay_steps}; lower it or raise {decay_key}"
        )
    if config.optim.min_learning_rate > config.optim.learning_rate:
        yield (
            f"optim.min_learning_rate={config.optim.min_learning_rate} is above "
            f"optim.learning_rate={config.optim.learning_rate}; lower it"
        )


def _microbatch_divides_the_batch(config: RunConfig) -> Iterator[str]:
    batch, micro = config.train.global_batch_size, config.train.micro_batch_size
    if batch % micro:
        yield (
            f"train.micro_batch_size={micro} does not divide train.global_batch_size={batch}; "
            f"try train.global_batch_size={_next_multiple(batch, micro)}"
        )


def _packing_fits_the_model(config: RunConfig) -> Iterator[str]:
    if config.data.packing == "pairs":
        yield (
            f"data.packing=pairs makes sentence pairs for BERT, and model.kind={config.model.kind} "
            "guesses the next token; try concat, bestfit or pad"
        )


_RULES: tuple[Callable[[RunConfig], Iterator[str]], ...] = (
    _tensor_divides_the_model,
    _pipeline_divides_the_layers,
    _sequences_fit_the_positions,
    _warmup_ends_before_the_decay,
    _microbatch_divides_the_batch,
    _packing_fits_the_model,
)
