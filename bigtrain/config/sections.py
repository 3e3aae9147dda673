"""The sections of a run's config. Each key is documented here and nowhere else."""

from math import isqrt
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


def _is_path(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("a path is not empty and holds no control characters")
    return text


FolderPath = Annotated[str, AfterValidator(_is_path)]


class Section(BaseModel):
    """Frozen values; an unknown key is an error, and so is a value of another type."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class ModelConfig(Section):
    """The model: a decoder in GPT-2's style (learned positions, LayerNorm before, GELU, biases)."""

    kind: Literal["gpt"] = "gpt"
    """The family of the model."""
    num_layers: PositiveInt
    """Transformer layers."""
    hidden_size: PositiveInt
    """Width of the residual stream."""
    num_heads: PositiveInt
    """Attention heads; divides hidden_size."""
    ffn_hidden_size: PositiveInt | None = None
    """Width inside the feed-forward block; four times hidden_size when not given."""
    vocab_size: PositiveInt
    """Tokens of the tokenizer, special ones included."""
    vocab_multiple: PositiveInt = 128
    """The embedding is padded to a multiple of this; padded columns take no part in the loss."""
    max_sequence_length: PositiveInt
    """Learned positions: the longest sequence that the model can read."""
    tie_embeddings: bool = True
    """Whether the output layer is the transposed embedding."""
    dropout: Fraction = 0.0
    """Dropout of embeddings, attention weights and residual branches."""
    norm_epsilon: PositiveFloat = 1e-5
    """Added to the variance in LayerNorm."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of initial weights; output projections divide it by sqrt(2·layers)."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"model.num_heads={self.num_heads} does not divide "
                f"model.hidden_size={self.hidden_size}; "
                f"try {_divisors_near(self.hidden_size, self.num_heads)}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def feed_forward_size(self) -> int:
        """Width inside the feed-forward block."""
        return self.ffn_hidden_size or 4 * self.hidden_size

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: vocab_size rounded up to vocab_multiple."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple


class OptimConfig(Section):
    """AdamW and its learning rate."""

    learning_rate: PositiveFloat
    """Peak learning rate."""
    min_learning_rate: NonNegativeFloat = 0.0
    """Learning rate at the end of the decay."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay after the warm-up."""
    warmup_steps: Count = 0
    """Steps over which the learning rate rises linearly from zero."""
    decay_steps: PositiveInt | None = None
    """Step at which the decay ends; train.steps when not given."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay of matrices; biases and norms have none."""
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.95
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    clip_grad_norm: NonNegativeFloat = 1.0
    """Largest global norm of the gradient; 0 turns clipping off."""


class TrainConfig(Section):
    """How long, in what batches, with which numbers."""

    steps: PositiveInt
    """Optimizer steps of the whole run."""
    global_batch_size: PositiveInt
    """Samples of one step, over all ranks."""
    micro_batch_size: PositiveInt
    """Samples of one forward pass on one rank."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Numbers of forward and backward; master weights, moments and reductions are always fp32."""
    log_every: PositiveInt = 10
    """Steps between two lines of the log; metrics.jsonl has every step."""


class ValidationConfig(Section):
    """The loss on data.validation, in the loop."""

    every: PositiveInt = 100
    """Steps between two validations; one more follows the last step."""
    samples: PositiveInt | None = None
    """Samples measured each time: the first of the corpus, or rows from all over its sample table;
    all of it when not given."""


class CheckpointConfig(Section):
    """When the state of the run is saved."""

    every: PositiveInt = 100
    """Steps between two checkpoints; one more follows the last step."""


class ParallelConfig(Section):
    """How the model is split; data parallel is what is left of the world size."""

    tensor: PositiveInt = 1
    """Ranks that share each layer (tensor parallel)."""
    pipeline: PositiveInt = 1
    """Stages that share the layers (pipeline parallel, 1F1B)."""
    zero: Annotated[int, Field(ge=0, le=1)] = 0
    """ZeRO stage: 0 keeps the optimizer state on every data rank, 1 partitions it over them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the ranks compute: auto takes GPUs when there are any."""

    @property
    def model_parallel_size(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor * self.pipeline


class TrackConfig(Section):
    """Where metrics go besides the run folder."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """auto: online when there are a key and a network, else offline."""
    project: str = "bigtrain"
    """Project in wandb."""


def divisors(number: int) -> list[int]:
    """All divisors, smallest first."""
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _divisors_near(number: int, wanted: int) -> str:
    near = sorted(sorted(divisors(number), key=lambda d: (abs(d - wanted), d))[:3])
    return f"{', '.join(map(str, near[:-1]))} or {near[-1]}" if len(near) > 1 else str(near[0])
