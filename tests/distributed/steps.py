"""Takes a few steps of an engine on invented tokens, in any layout, and records the results."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigtrain.config import RunConfig
from tests.runs import tiny_config

VOCAB_SIZE = 500


@dataclass
class Steps:
    """The results of the steps on one rank."""

    losses: list[float] = field(default_factory=list)
    """Mean loss of each step over all tokens and ranks."""
    norms: list[float] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    gradients: dict[str, Any] = field(default_factory=dict)
    """Full gradients of the first step, by global name."""
    bits: list[str] = field(default_factory=list)
    """After each step, a hash of this rank's masters, moments, weights and step count."""
    adam_steps: int = 0
    weights: dict[str, Any] = field(default_factory=dict)
    """Full fp32 masters after the last step, by global name."""


def steps_config(**sections: Any) -> RunConfig:
    """The config of a run of 4 layers and 8 samples per step that reads no data."""
    nowhere = Path("unused")
    train = {"micro_batch_size": 1, **sections.pop("train", {})}
    parallel = {"device": "cpu", **sections.pop("parallel", {})}
    data = {"train": "unused", **sections.pop("data", {})}
    return tiny_config(nowhere, nowhere, train=train, parallel=parallel, data=data, **sections)


def tiny_model() -> dict[str, Any]:
    """The model section of ``steps_config``."""
    return {
        "num_layers": 4,
        "hidden_size": 32,
        "num_heads": 4,
        "vocab_size": VOCAB_SIZE,
        "max_sequence_length": 32,
    }


@contextmanager
def engine_of(config: RunConfig) -> Iterator[tuple[Any, Any, Any]]:
    """Yields an engine with initial weights, its layout and this rank's coordinates."""
    from bigtrain.config.layout import layout_of
    from bigtrain.engine.engine import Engine
    from bigtrain.environment import read_ranks
    from bigtrain.models.build import build_chunks
    from bigtrain.parallel.device import choose_device
    from bigtrain.parallel.groups import process_groups

    ranks = read_ranks()
    device, layout = choose_device("cpu", ranks), layout_of(config, ranks.world_size)
    with process_groups(ranks, layout, device) as coordinates:
        engine = Engine(config, build_chunks(config, layout), layout=layout, device=device)
        engine.initialize()
        yield engine, layout, coordinates
        engine.close()


def take_steps(
    config: RunConfig,
    *,
    steps: int = 3,
    accept: Callable[[int, list[Any], float], bool] | None = None,
    poisoned: int | None = None,
    gather: bool = True,
) -> Steps:
    """Takes steps on this rank; for ``run_ranks``.

    Args:
        config: From ``steps_config``.
        steps: The number of steps.
        accept: Decides from (step, reports, gradient norm) whether to update.
        poisoned: The step whose loss is infinite on one rank.
        gather: Whether to gather full gradients and weights.
    """
    seen = Steps()
    with engine_of(config) as (engine, layout, coordinates):
        for step in range(steps):
            microbatches = microbatches_of(config, step, layout, coordinates)
            scale = (
                float("inf") if step == poisoned and coordinates.data == layout.data - 1 else 1.0
            )
            reports = engine.backward(forward_step_of(config, scale), microbatches)
            norm = engine.reduce()
            if gather and step == 0:
                seen.gradients = _assemble([(b, b.values) for b in engine.gradient_boxes()])
            if accept is None or accept(step, reports, norm):
                seen.skipped.append(not engine.update(1e-2))
            else:
                engine.discard()
                seen.skipped.append(True)
            seen.norms.append(norm)
            seen.losses.append(_mean_loss(reports, len(microbatches) * layout.data, coordinates))
            seen.bits.append(_hash(engine))
        seen.adam_steps = engine.optimizer_steps
        if gather:
            seen.weights = _assemble([(b, b.master) for b in engine.boxes()])
    return seen


def save_after_steps(config: RunConfig, out: Path, *, steps: int = 2) -> None:
    """Takes steps on this rank and saves a checkpoint; for ``run_ranks``."""
    from bigtrain.checkpoint.schema import TrainState
    from tests.runs import save_engine

    with engine_of(config) as (engine, layout, coordinates):
        for step in range(steps):
            microbatches = microbatches_of(config, step, layout, coordinates)
            engine.backward(forward_step_of(config), microbatches)
            engine.reduce()
            engine.update(1e-2)
        state = TrainState(
            step=steps,
            samples=0,
            tokens=0,
            optimizer_steps=engine.optimizer_steps,
            data_stages=[],
            config=config.model_dump(mode="json"),
            tokenizer_sha256="",
        )
        save_engine(engine, state, out)


def load_and_save_again(config: RunConfig, checkpoint: Path, out: Path) -> None:
    """Loads a checkpoint in this layout and saves it at once; for ``run_ranks``."""
    from bigtrain.checkpoint.loading import load_checkpoint
    from bigtrain.checkpoint.storage_folder import open_folder
    from tests.runs import save_engine

    with engine_of(config) as (engine, _, _):
        state = load_checkpoint(open_folder(checkpoint), engine)
        assert engine.optimizer_steps == state.optimizer_steps
        save_engine(engine, state, out)


def refuse_step_1_on_one_rank(step: int, reports: list[Any], norm: float) -> bool:
    """Accepts every step except number 1, which a single rank refuses."""
    import torch.distributed as dist

    return step != 1 or dist.get_rank() != dist.get_world_size() - 1


def microbatches_of(config: RunConfig, step: int, layout: Any, coordinates: Any) -> list[Any]:
    """This rank's microbatches of an invented batch, which differs from step to step."""
    import torch

    from bigtrain.data.microbatch import Microbatch

    generator = torch.Generator().manual_seed(1000 + step)
    batch, micro = config.train.global_batch_size, config.train.micro_batch_size
    shape = (batch, config.data.sequence_length + 1)
    tokens = torch.randint(0, VOCAB_SIZE, shape, generator=generator)
    mine = tokens.chunk(layout.data)[coordinates.data].split(micro)
    ones = torch.ones(micro, config.data.sequence_length)
    return [Microbatch(rows[:, :-1], rows[:, 1:].contiguous(), ones) for rows in mine]


def forward_step_of(config: RunConfig, scale: float = 1.0) -> Any:
    """A forward step whose loss is the mean over tokens, times ``scale``."""
    import torch
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    is_bert = config.model.kind == "bert"

    def forward_step(numbered: Any, stage: Any) -> Any:
        _, microbatch = next(numbered)
        inputs = microbatch.tokens
        if is_bert:
            output = stage(inputs, torch.ones_like(inputs, dtype=torch.bool), inputs % 2)
        else:
            output = stage(inputs, torch.arange(inputs.shape[1]).expand_as(inputs), None)

        def loss(output: Any) -> Any:
            logits = (output[0] if is_bert else output).float().contiguous()
            mean = vocab_parallel_cross_entropy(logits, microbatch.targets).mean()
            if is_bert:
                parity = inputs[:, 0] % 2
                mean = mean + torch.nn.functional.cross_entropy(output[1].float(), parity)
            return mean * scale, {"loss": mean.detach().clone()}

        return output, loss

    return forward_step


def _mean_loss(reports: list[Any], microbatches: int, coordinates: Any) -> float:
    import torch
    import torch.distributed as dist

    total = torch.zeros((), dtype=torch.float64)
    if coordinates.tensor == 0:
        total += sum(float(report["loss"]) for report in reports)
    dist.all_reduce(total)
    return float(total / microbatches)


def _assemble(boxes: list[Any]) -> dict[str, Any]:
    """Assembles the boxes of all ranks into full numpy arrays on rank 0."""
    import torch
    import torch.distributed as dist

    mine = [
        (box.name, box.global_shape, box.offset, values.float().clone())
        for box, values in boxes
        if box.is_first_replica
    ]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    full: dict[str, Any] = {}
    for name, shape, offset, values in (box for rank in everyone for box in rank):
        tensor = full.setdefault(name, torch.full(shape, float("nan")))
        tensor[tuple(slice(o, o + n) for o, n in zip(offset, values.shape, strict=True))] = values
    return {name: tensor.numpy() for name, tensor in full.items()} if dist.get_rank() == 0 else {}


def _hash(engine: Any) -> str:
    digest = hashlib.sha256(str(engine.optimizer_steps).encode())
    for box in engine.boxes():
        for values in (box.master, box.first_moment, box.second_moment):
            digest.update(values.contiguous().numpy().tobytes())
    for chunk in engine.chunks:
        for _, parameter in chunk.named_parameters():
            # Under ZeRO-3 a rank holds the full weight only while it is used, else a fragment.
            kept = getattr(parameter, "ds_tensor", parameter).detach()
            digest.update(kept.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
