"""The rules that relate keys of different sections, each with its remedy."""

from collections.abc import Callable, Iterator
from math import gcd

from bigtrain.config.model_kinds import FINE_TUNING, MODEL_KINDS
from bigtrain.config.run_sections import RunSections
from bigtrain.config.sections import divisors

PAIR_LENGTH_MULTIPLE = 8
"""Sentence pairs are padded to a multiple of this; tensor cores are faster with multiples of 8."""


def next_multiple(number: int, divisor: int) -> int:
    """``number``, rounded up to a multiple of ``divisor``."""
    return -(-number // divisor) * divisor


def _tensor_divides_the_model(config: RunSections) -> Iterator[str]:
    tensor, model = config.parallel.tensor, config.model
    for key, size in (
        ("model.num_heads", model.num_heads),
        *([("model.num_kv_heads", model.kv_heads)] if model.kv_heads != model.num_heads else []),
        ("model.ffn_hidden_size", model.feed_forward_size),
    ):
        if size % tensor:
            fits = divisors(gcd(model.kv_heads, model.feed_forward_size))
            remedy = f"try {', '.join(map(str, fits[:4]))} or change {key}"
            yield f"parallel.tensor={tensor} does not divide {key}={size}; {remedy}"
    if model.padded_vocab_size % tensor:
        yield (
            f"parallel.tensor={tensor} does not divide the padded vocabulary of "
            f"{model.padded_vocab_size}; set model.vocab_multiple to a multiple of {tensor}"
        )


def _sequence_parallel_has_tensor_ranks(config: RunSections) -> Iterator[str]:
    parallel, length = config.parallel, config.data.sequence_length
    if not parallel.sequence:
        return
    if parallel.tensor == 1:
        yield (
            "parallel.sequence=true splits the sequence over tensor ranks, but parallel.tensor=1; "
            "set parallel.tensor to 2 or more, or leave parallel.sequence out"
        )
    if length % parallel.tensor:
        yield (
            f"parallel.sequence=true: parallel.tensor={parallel.tensor} does not divide "
            f"data.sequence_length={length}; try {next_multiple(length, parallel.tensor)}"
        )
    padded = {"pairs": "sentence pairs", "labels": "labelled rows"}.get(config.data.packing)
    if padded is not None and PAIR_LENGTH_MULTIPLE % parallel.tensor:
        yield (
            f"parallel.sequence=true: {padded} are padded to multiples of "
            f"{PAIR_LENGTH_MULTIPLE}, which parallel.tensor={parallel.tensor} does not divide; "
            "try parallel.tensor=2, 4 or 8"
        )


def _pipeline_divides_the_layers(config: RunSections) -> Iterator[str]:
    parallel, layers = config.parallel, config.model.num_layers
    stages, chunks = parallel.pipeline, parallel.virtual_pipeline
    ends = {
        key: getattr(parallel, key)
        for key in ("first_stage_layers", "last_stage_layers")
        if getattr(parallel, key) is not None
    }
    if stages == 1:
        for key in ("virtual_pipeline", *ends):
            if key in ends or chunks > 1:
                yield (
                    f"parallel.{key}={getattr(parallel, key)} is for a pipeline, but "
                    f"parallel.pipeline=1; raise parallel.pipeline or leave parallel.{key} out"
                )
        return
    for key, own in ends.items():
        if own % chunks:
            yield (
                f"parallel.virtual_pipeline={chunks} does not divide parallel.{key}={own}; "
                f"try {next_multiple(own, chunks)}"
            )
    middle, left = stages - len(ends), layers - sum(ends.values())
    names = " and ".join(f"parallel.{key}={own}" for key, own in ends.items())
    leaves = "leave" if len(ends) > 1 else "leaves"
    if ends and middle == 0 and left:
        yield (
            f"{names} add up to {layers - left}; the two stages must hold all layers "
            f"(model.num_layers={layers})"
        )
    elif ends and left < middle:
        yield (
            f"{names} {leaves} {left} of model.num_layers={layers} for the {middle} other stages; "
            "leave at least one layer for each of them"
        )
    elif middle and left % (middle * chunks):
        split = f"parallel.pipeline={stages}" + (
            f" × parallel.virtual_pipeline={chunks}" if chunks > 1 else ""
        )
        if ends:
            yield (
                f"{names} {leaves} {left} layers, which the {middle} other stages of {split} do "
                f"not divide; leave them a multiple of {middle * chunks}"
            )
        else:
            fits = [d for d in divisors(layers) if d % chunks == 0 or chunks == 1]
            tries = ", ".join(str(d // chunks) for d in fits[:6]) or "parallel.virtual_pipeline=1"
            yield f"{split} does not divide model.num_layers={layers}; try {tries}"


def _sequences_fit_the_positions(config: RunSections) -> Iterator[str]:
    length, positions = config.data.sequence_length, config.model.max_sequence_length
    if length > positions:
        yield (
            f"data.sequence_length={length} is more than model.max_sequence_length={positions}; "
            "lower data.sequence_length or raise model.max_sequence_length"
        )


def _schedule_decays(config: RunSections) -> bool:
    return config.optim.schedule not in ("constant", "inverse_sqrt")


def _warmup_ends_before_the_decay(config: RunSections) -> Iterator[str]:
    decay_key = "train.steps" if config.optim.decay_steps is None else "optim.decay_steps"
    if config.optim.warmup_steps >= config.decay_steps and _schedule_decays(config):
        yield (
            f"optim.warmup_steps={config.optim.warmup_steps} leaves no step for the decay, which "
            f"ends at step {config.decay_steps}; lower it or raise {decay_key}"
        )
    if config.optim.min_learning_rate > config.optim.learning_rate:
        yield (
            f"optim.min_learning_rate={config.optim.min_learning_rate} is above "
            f"optim.learning_rate={config.optim.learning_rate}; lower it"
        )


def _microbatch_divides_the_batch(config: RunSections) -> Iterator[str]:
    batch, micro = config.train.global_batch_size, config.train.micro_batch_size
    if batch % micro:
        yield (
            f"train.micro_batch_size={micro} does not divide train.global_batch_size={batch}; "
            f"try train.global_batch_size={next_multiple(batch, micro)}"
        )


def _ramp_ends_at_the_batch_size(config: RunSections) -> Iterator[str]:
    ramp, full, micro = (
        config.train.batch_ramp,
        config.train.global_batch_size,
        config.train.micro_batch_size,
    )
    if ramp is None:
        return
    if config.data.draws_whole_batches:
        yield (
            f"train.batch_ramp changes the size of batches, and with data.packing="
            f"{config.data.packing} a whole batch is drawn together; leave it out"
        )
    if ramp.start >= full or (full - ramp.start) % ramp.increment:
        yield (
            f"train.batch_ramp: increments of {ramp.increment} do not lead from {ramp.start} to "
            f"exactly train.global_batch_size={full}; try increment={full - ramp.start}"
            if ramp.start < full
            else f"train.batch_ramp.start={ramp.start} is not below train.global_batch_size={full}"
            "; lower it or leave the ramp out"
        )
    elif ramp.start % micro or ramp.increment % micro:
        yield (
            f"train.micro_batch_size={micro} does not divide train.batch_ramp's "
            f"start={ramp.start} and increment={ramp.increment}; use multiples of it"
        )


def _data_and_loss_fit_the_objective(config: RunSections) -> Iterator[str]:
    packing, kind = config.data.packing, config.model.kind
    objective, chosen = config.objective_traits, config.objective.kind
    fine_tuning = [name for name, t in FINE_TUNING.items() if packing in t.packings]
    if chosen == "answer_only" and not config.model.traits.is_causal:
        yield (
            f"objective.kind=answer_only predicts next tokens, and model.kind={kind} does not; "
            "set model.kind=gpt"
        )
    elif chosen in FINE_TUNING and packing not in objective.packings:
        yield (
            f"objective.kind={chosen} does not read data.packing={packing}; set "
            f"data.packing={' or '.join(objective.packings)}, or leave objective out"
        )
    elif packing not in objective.packings and fine_tuning:
        yield f"data.packing={packing} is for objective.kind={fine_tuning[0]}; set it as well"
    elif packing not in objective.packings:
        others = [k for k, t in MODEL_KINDS.items() if packing in t.objective.packings]
        yield (
            f"data.packing={packing} makes no samples for model.kind={kind}, which "
            f"{objective.task}; try data.packing={' or '.join(objective.packings)}, or "
            f"model.kind={' or '.join(others)}"
        )
    if config.optim.z_loss and chosen in FINE_TUNING and not objective.takes_z_loss:
        yield f"optim.z_loss is not for objective.kind={chosen}; leave it out"
    elif config.optim.z_loss and not objective.takes_z_loss:
        fitting = [k for k, t in MODEL_KINDS.items() if t.objective.takes_z_loss]
        yield f"optim.z_loss is for model.kind={' or '.join(fitting)}; leave it out"


def _anneal_goes_with_wsd(config: RunSections) -> Iterator[str]:
    optim = config.optim
    if optim.anneal_steps is None:
        return
    if optim.schedule != "wsd":
        yield (
            f"optim.anneal_steps={optim.anneal_steps} is for optim.schedule=wsd, not "
            f"{optim.schedule}; leave it out"
        )
    elif optim.anneal_steps > config.decay_steps - optim.warmup_steps:
        yield (
            f"optim.anneal_steps={optim.anneal_steps} does not fit between optim.warmup_steps="
            f"{optim.warmup_steps} and the end of the decay at step {config.decay_steps}; lower it"
        )


def _offload_has_a_partition(config: RunSections) -> Iterator[str]:
    if config.parallel.offload_optimizer and config.parallel.zero == 0:
        yield (
            "parallel.offload_optimizer=true moves ZeRO's partition of the optimizer state to host "
            "memory, but parallel.zero=0 partitions nothing; set parallel.zero to 1, 2 or 3"
        )


def _keep_every_goes_with_keep_last(config: RunSections) -> Iterator[str]:
    if config.checkpoint.keep_every is not None and config.checkpoint.keep_last is None:
        yield (
            f"checkpoint.keep_every={config.checkpoint.keep_every} keeps checkpoints besides the "
            "newest ones, but all are kept; set checkpoint.keep_last as well, or leave it out"
        )


def _run_folders_are_on_a_disk(config: RunSections) -> Iterator[str]:
    if "://" in config.runs_dir:
        yield (
            f"runs_dir={config.runs_dir}: run folders cannot be at a URL; give a path, and set "
            f"checkpoint.dir={config.runs_dir} for the checkpoints"
        )


def _kernels_have_the_norms(config: RunSections) -> Iterator[str]:
    if config.train.kernels == "transformer_engine" and config.model.norm_position == "post":
        yield (
            "train.kernels=transformer_engine computes norms before blocks only, but "
            "model.norm_position=post; set train.kernels=torch"
        )


def _weights_only_has_a_checkpoint(config: RunSections) -> Iterator[str]:
    if config.checkpoint.load_weights_only and config.checkpoint.load is None:
        yield (
            "checkpoint.load_weights_only=true, but checkpoint.load names no checkpoint; set "
            "checkpoint.load or leave it out"
        )


RULES: tuple[Callable[[RunSections], Iterator[str]], ...] = (
    _tensor_divides_the_model,
    _sequence_parallel_has_tensor_ranks,
    _pipeline_divides_the_layers,
    _sequences_fit_the_positions,
    _warmup_ends_before_the_decay,
    _anneal_goes_with_wsd,
    _microbatch_divides_the_batch,
    _ramp_ends_at_the_batch_size,
    _data_and_loss_fit_the_objective,
    _offload_has_a_partition,
    _keep_every_goes_with_keep_last,
    _weights_only_has_a_checkpoint,
    _kernels_have_the_norms,
    _run_folders_are_on_a_disk,
)
