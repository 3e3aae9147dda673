"""`bigtrain parity` with forked ranks, which start at once, and faults to plant in them."""

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

Plant = Callable[[], None]


def measure_rank(
    config_file: Path, *, steps: int, folder: Path, plant: Plant | None, perturbed_runs: int = 0
) -> None:
    """What ``bigtrain parity-rank`` does, after a fault is planted."""
    from bigtrain.parallel.device import choose_device
    from bigtrain.parity.measure import measure

    if plant is not None:
        plant()
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


def forked(steps: int, plant: Plant | None = None) -> StartRanks:
    """Starts ranks from the fork server."""

    def start(
        config: Path, processes: int, folder: Path, *, perturbed_runs: int = 0
    ) -> LayoutFailure | None:
        options: dict[str, Any] = {"steps": steps, "folder": folder, "plant": plant}
        options["perturbed_runs"] = perturbed_runs
        try:
            run_ranks(measure_rank, processes, config, timeout=200, **options)
        except RankError as error:
            lines = str(error).splitlines()
            ends = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
            told = "; ".join(ends) or lines[-1]
            return LayoutFailure(told, is_refusal="ConfigError" in told)
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
    plant: Plant | None = None,
) -> LayoutResult:
    """Runs a layout in forked ranks and compares it."""
    layout = parse_layout(layout)
    start = forked(steps, plant)
    return measure_layout(
        config, layout, reference=reference, tolerances=tolerances, folder=folder, start=start
    )


def forget_to_add_tied_gradients() -> None:
    """Leaves each stage's copy of the embedding with the gradient of its own use."""
    module = _finalize_module()
    assert hasattr(module, "_allreduce_word_embedding_grads")
    module._allreduce_word_embedding_grads = lambda *_, **__: None


def forget_to_average_over_replica_ranks() -> None:
    """Leaves each data rank with the gradient of its own samples."""
    from bigtrain.engine.engine import Engine

    assert hasattr(Engine, "_average_over_replica_ranks")
    Engine._average_over_replica_ranks = lambda _: None


def forget_to_add_tied_gradients_in_shares() -> None:
    """The same where data ranks hold shares of the gradient."""
    _forget("sum_tied")


def forget_to_add_over_the_sequence() -> None:
    """Leaves what every token of a sequence adds to, norms for one, with half of the tokens."""
    _forget("sum_over_tensor_ranks")


def add_over_tensor_ranks_twice() -> None:
    """Sums what tensor ranks share, and sums the sums, where data ranks hold shares."""
    from bigtrain.engine import shared_gradients

    add = shared_gradients._sum_over_tensor_ranks
    shared_gradients._sum_over_tensor_ranks = lambda gradient: add(add(gradient))


def forget_to_add_over_heads() -> None:
    """Leaves the norms of queries and keys with the gradient of each rank's own heads."""
    _finalize_module()._allreduce_non_tensor_model_parallel_grads = lambda *_, **__: None


def add_over_heads_twice() -> None:
    """Sums the gradients of those norms over tensor ranks, and sums the sums."""
    module = _finalize_module()
    add = module._allreduce_non_tensor_model_parallel_grads

    def add_twice(*args: Any, **kwargs: Any) -> None:
        add(*args, **kwargs)
        add(*args, **kwargs)

    module._allreduce_non_tensor_model_parallel_grads = add_twice


def scale_gradients(factor: float = 1 + 1e-4) -> None:
    """Multiplies every gradient that the ranks keep, before anything is made of it."""
    from bigtrain.engine.engine import Engine

    initialize = Engine.__init__

    def changed(self: Any, *args: Any, **kwargs: Any) -> None:
        initialize(self, *args, **kwargs)
        for parameter in self._parameters:
            parameter.register_hook(lambda gradient: gradient * factor)

    Engine.__init__ = changed


def leave_weights_unmoved() -> None:
    """Lets a perturbed run begin with the weights of the first."""
    from bigtrain.parity import measure

    assert hasattr(measure, "_perturb_weights")
    measure._perturb_weights = lambda *_, **__: None


def _finalize_module() -> Any:
    # The package has a function of the module's name.
    module = importlib.import_module("megatron.core.distributed.finalize_model_grads")
    assert hasattr(module, "_allreduce_non_tensor_model_parallel_grads")
    return module


def _forget(name: str) -> None:
    from bigtrain.engine import engine

    # A fault that cannot be planted because the name is gone must not pass for one.
    assert hasattr(engine, name)
    setattr(engine, name, lambda *_, **__: None)


def update_at_another_rate(factor: float) -> None:
    """Lets every update be as of another learning rate."""
    from bigtrain.engine.engine import Engine

    update = Engine.update

    def changed(self: Any, learning_rate: float) -> Any:
        return update(self, learning_rate * factor)

    Engine.update = changed


def crash_on_rank_one() -> None:
    """Ends one rank in the middle."""
    from bigtrain.engine.engine import Engine

    def crash(*_: Any, **__: Any) -> None:
        raise KeyError("planted")

    if read_ranks().rank == 1:
        Engine.backward = crash


update_at_twice_the_rate = partial(update_at_another_rate, 2.0)
