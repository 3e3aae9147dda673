"""Runs `bigtrain parity` in forked ranks, which start quickly, and injects faults into them."""

import importlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bigtrain.config import RunConfig, load_run_config
from bigtrain.config.layout import parse_layout
from bigtrain.environment import read_ranks
from bigtrain.parity.compare import Reference, Tolerances
from bigtrain.parity.layout_runs import LayoutFailure, LayoutResult, StartRanks, measure_layout
from tests.ranks import RankError, run_ranks

InjectFault = Callable[[], None]


def measure_rank(
    config_file: Path,
    *,
    steps: int,
    folder: Path,
    inject: InjectFault | None,
    perturbed_runs: int = 0,
) -> None:
    """Injects a fault, then does what ``bigtrain parity-rank`` does."""
    from bigtrain.parallel.device import choose_device
    from bigtrain.parity.measure import measure

    if inject is not None:
        inject()
    ranks = read_ranks()
    device = choose_device("cpu", ranks)
    config = load_run_config([str(config_file)])
    measure(
        config,
        ranks=ranks,
        device=device,
        steps=steps,
        folder=folder,
        perturbed_runs=perturbed_runs,
    )


def forked(steps: int, inject: InjectFault | None = None) -> StartRanks:
    """Returns a function that starts ranks from the fork server."""

    def start(
        config: Path, processes: int, folder: Path, *, perturbed_runs: int = 0
    ) -> LayoutFailure | None:
        options: dict[str, Any] = {"steps": steps, "folder": folder, "inject": inject}
        options["perturbed_runs"] = perturbed_runs
        try:
            run_ranks(measure_rank, processes, config, timeout=200, **options)
        except RankError as error:
            lines = str(error).splitlines()
            ends = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
            message = "; ".join(ends) or lines[-1]
            return LayoutFailure(message, is_refusal="ConfigError" in message)
        return None

    return start


def compare_with(
    reference: Reference,
    config: RunConfig,
    layout: str,
    tolerances: Tolerances,
    *,
    folder: Path,
    steps: int,
    inject: InjectFault | None = None,
) -> LayoutResult:
    """Runs a layout in forked ranks and compares it with the reference."""
    layout = parse_layout(layout)
    start = forked(steps, inject)
    return measure_layout(
        config, layout, reference=reference, tolerances=tolerances, folder=folder, start=start
    )


def skip_tied_gradient_sum() -> None:
    """The gradients of the first and last stage's copies of the embedding are not added."""
    module = _finalize_module()
    assert hasattr(module, "_allreduce_word_embedding_grads")
    module._allreduce_word_embedding_grads = lambda *_, **__: None


def skip_replica_average() -> None:
    """Gradients are not averaged over replica ranks."""
    from bigtrain.engine.engine import Engine

    assert hasattr(Engine, "_average_over_replica_ranks")
    Engine._average_over_replica_ranks = lambda _: None


def skip_tied_gradient_sum_of_partitions() -> None:
    """Tied embedding gradients are not added, for ZeRO stages that partition gradients."""
    _replace_with_no_op("sum_tied")


def skip_sequence_sum() -> None:
    """Gradients of norms are not summed over the tensor ranks that split the sequence."""
    _replace_with_no_op("sum_over_tensor_ranks")


def sum_over_tensor_ranks_twice() -> None:
    """Gradients shared by tensor ranks are summed twice, for ZeRO stages 2 and 3."""
    from bigtrain.engine import shared_gradients

    add = shared_gradients._sum_over_tensor_ranks
    shared_gradients._sum_over_tensor_ranks = lambda gradient: add(add(gradient))


def skip_head_sum() -> None:
    """Gradients of query and key norms are not summed over the ranks that split the heads."""
    _finalize_module()._allreduce_non_tensor_model_parallel_grads = lambda *_, **__: None


def sum_over_heads_twice() -> None:
    """Gradients of query and key norms are summed twice over tensor ranks."""
    module = _finalize_module()
    add = module._allreduce_non_tensor_model_parallel_grads

    def add_twice(*args: Any, **kwargs: Any) -> None:
        add(*args, **kwargs)
        add(*args, **kwargs)

    module._allreduce_non_tensor_model_parallel_grads = add_twice


def scale_gradients(factor: float = 1 + 1e-4) -> None:
    """Multiplies every parameter's gradient as soon as backward computes it."""
    from bigtrain.engine.engine import Engine

    initialize = Engine.__init__

    def changed(self: Any, *args: Any, **kwargs: Any) -> None:
        initialize(self, *args, **kwargs)
        for parameter in self._parameters:
            parameter.register_hook(lambda gradient: gradient * factor)

    Engine.__init__ = changed


def keep_weights_unperturbed() -> None:
    """A perturbed run starts from the unperturbed weights."""
    from bigtrain.parity import measure

    assert hasattr(measure, "_perturb_weights")
    measure._perturb_weights = lambda *_, **__: None


def _finalize_module() -> Any:
    # In its package, a function of the same name hides the module.
    module = importlib.import_module("megatron.core.distributed.finalize_model_grads")
    assert hasattr(module, "_allreduce_non_tensor_model_parallel_grads")
    return module


def _replace_with_no_op(name: str) -> None:
    from bigtrain.engine import engine

    # If the name no longer exists, the fault cannot be injected: fail here.
    assert hasattr(engine, name)
    setattr(engine, name, lambda *_, **__: None)


def scale_learning_rate(factor: float) -> None:
    """Multiplies the learning rate of every update."""
    from bigtrain.engine.engine import Engine

    update = Engine.update

    def changed(self: Any, learning_rate: float) -> Any:
        return update(self, learning_rate * factor)

    Engine.update = changed


def crash_on_rank_1() -> None:
    """Rank 1 raises in its first backward pass."""
    from bigtrain.engine.engine import Engine

    def crash(*_: Any, **__: Any) -> None:
        raise KeyError("planted")

    if read_ranks().rank == 1:
        Engine.backward = crash


double_learning_rate = partial(scale_learning_rate, 2.0)
