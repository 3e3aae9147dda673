"""The sections of a run's config. Each key is documented here and nowhere else."""

from math import isqrt
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bigtrain.config.paths import FolderPath

PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Section(BaseModel):
    """Frozen values; an unknown key is an error, and so is a value of another type."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class OptimConfig(Section):
    """AdamW and its learning rate."""

    learning_rate: PositiveFloat
    """Peak learning rate."""
    min_learning_rate: NonNegativeFloat = 0.0
    """Learning rate at the end of the decay."""
    schedule: Literal["cosine", "linear", "wsd", "inverse_sqrt", "constant"] = "cosine"
    """Shape after the warm-up. wsd (warm-up, stable, decay) keeps the peak until the last
    anneal_steps; inverse_sqrt falls with the root of the step and never ends."""
    warmup_steps: Count = 0
    """Steps over which the learning rate rises linearly from zero."""
    decay_steps: PositiveInt | None = None
    """Step at which the decay ends; train.steps when not given."""
    anneal_steps: PositiveInt | None = None
    """wsd: steps of the final linear decay; a tenth of decay_steps when not given."""
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
    z_loss: NonNegativeFloat = 0.0
    """Weight of the squared log of the softmax's denominator, which keeps logits small (PaLM,
    arXiv 2204.02311, section 5)."""


class BatchRampConfig(Section):
    """Small batches first: the size grows by increment, in equal shares of samples."""

    start: PositiveInt
    """Samples of the first step."""
    increment: PositiveInt
    """Samples by which the batch grows; whole increments lead to train.global_batch_size."""
    samples: PositiveInt
    """Samples after which the batch has its full size."""


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
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations that are computed again in the backward pass, to save memory: selective those
    of attention (fused kernels keep none: it helps where none runs), full those of layers."""
    batch_ramp: BatchRampConfig | None = None
    """Grows the batch from a smaller one."""
    compile: bool = False
    """Whether torch.compile fuses the parts of a layer that it can; slower to start."""
    kernels: Literal["torch", "transformer_engine"] = "torch"
    """Whose layers compute: torch's own, or Transformer Engine's where it is installed."""
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
    """When the state of the run is saved, where, and what it begins with."""

    every: PositiveInt = 100
    """Steps between two checkpoints; one more follows the last step."""
    asynchronous: bool = True
    """Whether training goes on while a checkpoint is written, from a copy in host memory (12 bytes
    a parameter, over all ranks)."""
    keep_last: PositiveInt | None = None
    """Newest checkpoints that stay; older ones are deleted. All stay when not given."""
    keep_every: PositiveInt | None = None
    """With keep_last: checkpoints of steps that are multiples of this stay for good."""
    on_error: Literal["continue", "stop"] = "continue"
    """What a save that fails (a full disk) does: continue tells and trains on, since the next one
    may find room. When an attempt ends, its last save must succeed."""
    dir: FolderPath | None = None
    """Folder, or fsspec URL such as s3://bucket/runs, that holds the checkpoints of runs, each
    under its name; the run folder's own checkpoints/ when not given. NAME.owner.json there says
    which run folder they belong to; another is refused."""
    load: FolderPath | None = None
    """Checkpoint, or run folder (its newest one), that a new run begins with. Once the run has
    checkpoints of its own it goes on from those."""
    load_weights_only: bool = False
    """Whether only the weights of load are taken, for another corpus or task; otherwise the run is
    a fork, which goes on at load's step with its optimizer and data."""


class ParallelConfig(Section):
    """How the model is split; data parallel is what is left of the world size."""

    tensor: PositiveInt = 1
    """Ranks that share each layer (tensor parallel)."""
    sequence: bool = False
    """Whether tensor ranks also share the sequence between layers (sequence parallel)."""
    pipeline: PositiveInt = 1
    """Stages that share the layers (pipeline parallel, 1F1B)."""
    virtual_pipeline: PositiveInt = 1
    """Chunks of layers that each stage holds (interleaved 1F1B): smaller bubble, more messages."""
    first_stage_layers: PositiveInt | None = None
    """Layers of the first stage, which also embeds; an even share when not given."""
    last_stage_layers: PositiveInt | None = None
    """Layers of the last stage, which also guesses; an even share when not given."""
    zero: Annotated[int, Field(ge=0, le=3)] = 0
    """ZeRO stage: what data ranks share instead of repeating it. 1: optimizer state, 2: gradients
    too, 3: weights too."""
    offload_optimizer: bool = False
    """Whether the optimizer's state and step stay in host memory (ZeRO-Offload); for GPUs whose
    memory is short."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the ranks compute: auto takes GPUs when there are any."""

    @property
    def model_parallel_size(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor * self.pipeline


class GuardConfig(Section):
    """Updates that are passed over, on all ranks alike, because their loss or gradient is off."""

    sigmas: NonNegativeFloat = 6.0
    """Standard deviations above its recent mean at which a loss or gradient norm is an outlier; a
    deviation counts as 1 % of the mean at least. 0 passes over only what is not finite."""
    window: Annotated[int, Field(ge=16, lt=2**20)] = 128
    """Steps that are the recent past, in which an outlier counts as a mild one; there are no
    outliers before half of it is full."""
    stop_after: PositiveInt = 10
    """Updates passed over in a row that stop the run."""


class ProfileConfig(Section):
    """A window of steps that torch's profiler records, into the run folder."""

    at_step: PositiveInt | None = None
    """First step recorded; none when not given."""
    num_steps: Annotated[int, Field(gt=0, le=100)] = 3
    """Steps recorded."""
    ranks: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] = (0,)
    """Ranks that record."""


class TrackConfig(Section):
    """Where metrics go besides the run folder."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """auto: online when there are a key and a network, else offline. online without a network is
    offline too, and the log says so."""
    project: str = "bigtrain"
    """Project in wandb."""
    peak_tflops: PositiveFloat | None = None
    """Dense peak of one device at train.precision, in TFLOP/s, that MFU is measured against. When
    not given: from a table of GPUs, or measured on CPU."""


def divisors(number: int) -> list[int]:
    """All divisors, smallest first."""
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def divisors_near(number: int, wanted: int) -> str:
    """The divisors of ``number`` nearest to ``wanted``, in words."""
    near = sorted(sorted(divisors(number), key=lambda d: (abs(d - wanted), d))[:3])
    return f"{', '.join(map(str, near[:-1]))} or {near[-1]}" if len(near) > 1 else str(near[0])
