"""The sections of a run's config, except `data` and `model`; each key is documented here."""

from math import isqrt
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bigtrain.config.paths import FolderPath

PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


def _checked_tracking_uri(uri: str) -> str:
    parts = urlsplit(uri)
    if uri != "databricks" and "://" not in uri:
        raise ValueError(f"not a URI: give one such as http://HOST:5000 or {_FILE_URI}")
    if parts.scheme == "file" and not parts.path.startswith("/"):
        raise ValueError(f"it names no absolute path: give one such as {_FILE_URI}")
    if parts.scheme in ("http", "https") and not parts.hostname:
        raise ValueError("it names no host: give one such as http://HOST:5000")
    if parts.scheme in ("http", "https") and "@" in parts.netloc:
        raise ValueError(
            "it holds a password, which would be written into the run folder: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    return uri


_FILE_URI = "file:///shared/mlruns"
TrackingUri = Annotated[str, AfterValidator(_checked_tracking_uri)]
"""Where MLflow's runs are."""


class Section(BaseModel):
    """A section of a config: frozen; unknown keys and values of another type are errors."""

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
    warmup_steps: NonNegativeInt = 0
    """Steps in which the learning rate rises linearly from zero."""
    decay_steps: PositiveInt | None = None
    """Step at which the decay ends; train.steps when not given."""
    anneal_steps: PositiveInt | None = None
    """wsd: steps of the final linear decay; a tenth of decay_steps when not given."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay of matrices; biases and norms are not decayed."""
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.95
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    clip_grad_norm: NonNegativeFloat = 1.0
    """Largest global norm of the gradient; 0 turns clipping off."""
    z_loss: NonNegativeFloat = 0.0
    """Weight of the squared logarithm of the softmax denominator in the loss, which keeps logits
    small (PaLM, arXiv 2204.02311, section 5)."""


class BatchRampConfig(Section):
    """Batch size warm-up: the batch grows by increment; each size lasts equally many samples."""

    start: PositiveInt
    """Samples of the first step."""
    increment: PositiveInt
    """Samples added each time; train.global_batch_size - start is a multiple of it."""
    samples: PositiveInt
    """Samples after which the batch has its full size."""


class TrainConfig(Section):
    """Steps, batch sizes, precision and kernels."""

    steps: PositiveInt
    """Optimizer steps of the whole run."""
    global_batch_size: PositiveInt
    """Samples of one step, over all ranks."""
    micro_batch_size: PositiveInt
    """Samples of one forward pass on one rank."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of forward and backward; master weights, moments and reductions are always fp32."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations that are computed again in the backward pass, to save memory. selective: those of
    attention (useful only without a fused kernel, which stores none); full: those of entire
    layers."""
    batch_ramp: BatchRampConfig | None = None
    """Batch size warm-up; none when not given."""
    compile: bool = False
    """Whether torch.compile fuses operations within layers; the start takes longer."""
    kernels: Literal["torch", "transformer_engine"] = "torch"
    """Implementation of the layers: torch's, or Transformer Engine's, which must be installed."""
    log_every: PositiveInt = 10
    """Steps between two lines of the log; metrics.jsonl has every step."""


class ValidationConfig(Section):
    """When and on how many samples the loss on data.validation is measured during training."""

    every: PositiveInt = 100
    """Steps between two validations; one more follows the last step."""
    samples: PositiveInt | None = None
    """Samples measured each time: the first ones of the corpus, or evenly spaced rows of its sample
    table. All when not given."""


class CheckpointConfig(Section):
    """When and where the state of the run is saved, and which checkpoint it starts from."""

    every: PositiveInt = 100
    """Steps between two checkpoints; one more follows the last step."""
    asynchronous: bool = True
    """Whether training continues while a checkpoint is written from a copy in host memory (12 bytes
    for each parameter, over all ranks)."""
    keep_last: PositiveInt | None = None
    """Number of newest checkpoints that are kept; older ones are deleted. All when not given."""
    keep_every: PositiveInt | None = None
    """With keep_last: checkpoints of steps that are multiples of this are never deleted."""
    on_error: Literal["continue", "stop"] = "continue"
    """What happens when a save fails, for example on a full disk. continue: it is reported and
    training continues, because the next save may succeed; stop: the run ends with the error, as it
    does when its last save fails."""
    dir: FolderPath | None = None
    """Folder, or fsspec URL such as s3://bucket/runs, with one folder of checkpoints for each run,
    named after the run. When not given: checkpoints/ in the run folder. NAME.owner.json there
    names the run folder that the checkpoints belong to; any other run folder is refused."""
    load: FolderPath | None = None
    """Checkpoint, run folder (its newest one), or Hugging Face folder that a new run starts from.
    Once the run has checkpoints of its own, it resumes from those. Of a Hugging Face folder, and
    of an import of one, only the weights are taken."""
    load_weights_only: bool = False
    """Whether only the weights of load are taken, for another corpus or task. Otherwise the run is
    a fork: it continues from load's step, with its optimizer state and position in the data."""


class ParallelConfig(Section):
    """How the model is split over ranks; data parallel takes the ranks that are left."""

    tensor: PositiveInt = 1
    """Ranks that split each layer (tensor parallel)."""
    sequence: bool = False
    """Whether tensor ranks also split the sequence between layers (sequence parallel)."""
    pipeline: PositiveInt = 1
    """Stages that the layers are split into (pipeline parallel, 1F1B)."""
    virtual_pipeline: PositiveInt = 1
    """Chunks of layers in each stage (interleaved 1F1B): smaller bubble, more messages."""
    first_stage_layers: PositiveInt | None = None
    """Layers of the first stage, which also holds the embedding; an even share when not given."""
    last_stage_layers: PositiveInt | None = None
    """Layers of the last stage, which also holds the output layer; an even share when not given."""
    zero: Annotated[int, Field(ge=0, le=3)] = 0
    """ZeRO stage: what is partitioned over data ranks. 0: nothing; 1: optimizer state; 2: gradients
    too; 3: weights too."""
    offload_optimizer: bool = False
    """Whether the optimizer state and its update are in host memory (ZeRO-Offload), to save GPU
    memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the ranks compute; auto uses GPUs if there are any."""

    @property
    def model_parallel_size(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor * self.pipeline


class GuardConfig(Section):
    """When an update is skipped, on all ranks, because of its loss or gradient norm."""

    sigmas: NonNegativeFloat = 6.0
    """Standard deviations above the recent mean from which a loss or gradient norm is an outlier.
    The deviation is taken as at least 1 % of the mean. With 0, only updates whose values are not
    finite are skipped."""
    window: Annotated[int, Field(ge=16, lt=2**20)] = 128
    """Number of recent steps in the mean and deviation, where an outlier enters with its value
    clipped; there are no outliers until half of it is filled."""
    stop_after: PositiveInt = 10
    """Number of updates skipped in a row that stops the run."""
    rewind: NonNegativeInt = 0
    """How often the run may rewind itself instead of failing after stop_after skipped updates: it
    goes back to an earlier checkpoint and skips the samples. Needs `bigtrain launch`."""
    rewind_steps: PositiveInt = 100
    """Steps that such a rewind goes back, at least, if a checkpoint is that old. It skips the
    samples of this many steps before the first skipped update, and of as many from it on."""


class ProfileConfig(Section):
    """Steps that torch's profiler records into the run folder."""

    at_step: PositiveInt | None = None
    """First step recorded; none when not given."""
    num_steps: Annotated[int, Field(gt=0, le=100)] = 3
    """Steps recorded."""
    ranks: Annotated[tuple[NonNegativeInt, ...], Field(strict=False, min_length=1)] = (0,)
    """Ranks that record."""


class TrackConfig(Section):
    """Where metrics are sent besides the run folder."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """auto: online if there are an API key and a network, else offline. online without a network is
    offline, with a line in the log."""
    tensorboard: bool = False
    """Whether event files for TensorBoard are written into tensorboard/ in the run folder; needs
    bigtrain[tensorboard]."""
    mlflow: TrackingUri | None = None
    """MLflow tracking URI, such as http://mlflow.example:5000 or file:///shared/mlruns; needs
    bigtrain[mlflow]. Not used when not given. Give user and password in MLFLOW_TRACKING_USERNAME
    and MLFLOW_TRACKING_PASSWORD, or a token in MLFLOW_TRACKING_TOKEN."""
    project: str = "bigtrain"
    """Project in wandb, experiment in MLflow."""
    peak_tflops: PositiveFloat | None = None
    """Dense peak of one device at train.precision, in TFLOP/s, for MFU. When not given: from a
    table of GPUs, or measured on CPU."""


def divisors(number: int) -> list[int]:
    """All divisors of ``number``, smallest first."""
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def divisors_near(number: int, wanted: int) -> str:
    """Up to three divisors of ``number`` nearest to ``wanted``, in words."""
    near = sorted(sorted(divisors(number), key=lambda d: (abs(d - wanted), d))[:3])
    return f"{', '.join(map(str, near[:-1]))} or {near[-1]}" if len(near) > 1 else str(near[0])
