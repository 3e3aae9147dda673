"""Every ZeRO stage, with every kind of parallelism, gives the steps of one process."""

from typing import Any

import pytest

from tests.distributed.steps import (
    Steps,
    refuse_step_1_on_one_rank,
    steps_config,
    take_steps,
    tiny_model,
)
from tests.ranks import run_ranks

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "zero=2": (2, {"zero": 2}),
    "tensor=2 sequence zero=3": (2, {"tensor": 2, "sequence": True, "zero": 3}),
    "pipeline=2 virtual=2 zero=3 data=2": (4, {"pipeline": 2, "virtual_pipeline": 2, "zero": 3}),
}
MORE_LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "zero=3": (2, {"zero": 3}),
    "tensor=2 sequence": (2, {"tensor": 2, "sequence": True}),
    "tensor=2 sequence zero=1 data=2": (4, {"tensor": 2, "sequence": True, "zero": 1}),
    "tensor=2 sequence zero=2 data=2": (4, {"tensor": 2, "sequence": True, "zero": 2}),
    "tensor=2 sequence zero=3 data=2": (4, {"tensor": 2, "sequence": True, "zero": 3}),
    "pipeline=2 virtual=2": (2, {"pipeline": 2, "virtual_pipeline": 2}),
    "pipeline=2 virtual=2 zero=1": (2, {"pipeline": 2, "virtual_pipeline": 2, "zero": 1}),
    "pipeline=2 zero=2 data=2": (4, {"pipeline": 2, "zero": 2}),
    "pipeline=2 zero=3 data=2": (4, {"pipeline": 2, "zero": 3}),
    "pipeline=2 virtual=2 zero=2 data=2": (4, {"pipeline": 2, "virtual_pipeline": 2, "zero": 2}),
    "pipeline=3 uneven": (3, {"pipeline": 3, "first_stage_layers": 1, "last_stage_layers": 1}),
    "pipeline=2 uneven zero=3": (2, {"pipeline": 2, "last_stage_layers": 1, "zero": 3}),
    "tensor=2 pipeline=2 sequence zero=3": (
        4,
        {"tensor": 2, "pipeline": 2, "sequence": True, "zero": 3},
    ),
    "zero=1 offloaded": (2, {"zero": 1, "offload_optimizer": True}),
    "zero=2 offloaded": (2, {"zero": 2, "offload_optimizer": True}),
    "zero=3 offloaded": (2, {"zero": 3, "offload_optimizer": True}),
}


def _steps(world_size: int, parallel: dict[str, Any], **sections: Any) -> list[Steps]:
    config = steps_config(parallel=parallel, **sections)
    return run_ranks(take_steps, world_size, config)


@pytest.fixture(scope="module")
def one_process() -> Steps:
    """The results of the steps in one process."""
    return _steps(1, {})[0]


def _assert_equal(ranks: list[Steps], one_process: Steps) -> None:
    ours = ranks[0]
    assert all(rank.norms == ours.norms for rank in ranks)
    assert ours.losses == pytest.approx(one_process.losses, abs=2e-6)
    assert ours.norms == pytest.approx(one_process.norms, rel=1e-6)
    assert ours.gradients.keys() == one_process.gradients.keys()
    for name, gradient in one_process.gradients.items():
        # An absolute tolerance too: the gradient of a key's bias consists only of rounding.
        assert ours.gradients[name] == pytest.approx(gradient, rel=1e-4, abs=1e-7), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_steps_of_one_process(layout: str, one_process: Steps) -> None:
    _assert_equal(_steps(*LAYOUTS[layout]), one_process)


@pytest.mark.slow
@pytest.mark.parametrize("layout", MORE_LAYOUTS)
def test_another_layout_gives_the_steps_of_one_process(layout: str, one_process: Steps) -> None:
    _assert_equal(_steps(*MORE_LAYOUTS[layout]), one_process)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_untied_embeddings_have_separate_gradients(zero: int) -> None:
    model = {**tiny_model(), "tie_embeddings": False}
    one_process = _steps(1, {}, model=model)[0]
    assert "output_layer.weight" in one_process.gradients
    _assert_equal(_steps(4, {"pipeline": 2, "zero": zero}, model=model), one_process)


MODELS: dict[str, dict[str, Any]] = {
    "llama": {
        "norm": "rmsnorm",
        "activation": "swiglu",
        "positions": "rope",
        "num_kv_heads": 2,
        "biases": False,
        "qk_norm": True,
        "tie_embeddings": False,
    },
    "bert": {"kind": "bert"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_layouts_of_another_model_give_the_steps_of_one_process(kind: str) -> None:
    model = {**tiny_model(), **MODELS[kind]}
    sections = {"model": model, "data": {"packing": "pairs"} if kind == "bert" else {}}
    one_process = _steps(1, {}, **sections)[0]
    _assert_equal(_steps(*MORE_LAYOUTS["tensor=2 sequence"], **sections), one_process)
    _assert_equal(_steps(*LAYOUTS["tensor=2 sequence zero=3"], **sections), one_process)
    _assert_equal(_steps(*LAYOUTS["pipeline=2 virtual=2 zero=3 data=2"], **sections), one_process)
    _assert_equal(_steps(*MORE_LAYOUTS["pipeline=2 zero=2 data=2"], **sections), one_process)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["full", "selective"])
@pytest.mark.parametrize("layout", ["zero=2", "tensor=2 sequence zero=3"])
def test_recomputed_activations_change_nothing(
    layout: str, recompute: str, one_process: Steps
) -> None:
    _assert_equal(_steps(*LAYOUTS[layout], train={"recompute": recompute}), one_process)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["pipeline=2 zero=2 data=2", "pipeline=2 zero=3 data=2"])
def test_recompute_works_with_partitioned_gradients_in_a_pipeline(
    layout: str, one_process: Steps
) -> None:
    _assert_equal(_steps(*MORE_LAYOUTS[layout], train={"recompute": "full"}), one_process)


@pytest.mark.parametrize(
    ("parallel", "precision"),
    [({"zero": 1}, "bf16"), ({"zero": 3}, "fp32")],
)
def test_an_update_refused_by_one_rank_changes_no_bit_on_any_rank(
    parallel: dict[str, Any], precision: str
) -> None:
    _assert_skipped(2, parallel, precision)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "parallel", "precision"),
    [
        (4, {"pipeline": 2, "virtual_pipeline": 2, "zero": 3}, "bf16"),
        (2, {}, "fp32"),
        (2, {"zero": 2}, "bf16"),
        (4, {"pipeline": 2, "zero": 2}, "fp32"),
        (2, {"tensor": 2, "sequence": True, "zero": 3}, "bf16"),
        (2, {"zero": 1, "offload_optimizer": True}, "fp32"),
        (2, {"zero": 2, "offload_optimizer": True}, "bf16"),
        (2, {"zero": 3, "offload_optimizer": True}, "bf16"),
    ],
)
def test_a_refused_update_changes_no_bit_in_any_layout(
    world_size: int, parallel: dict[str, Any], precision: str
) -> None:
    _assert_skipped(world_size, parallel, precision)


def _assert_skipped(world_size: int, parallel: dict[str, Any], precision: str) -> None:
    config = steps_config(parallel=parallel, train={"precision": precision})
    options: dict[str, Any] = {"steps": 3, "gather": False}
    refused = run_ranks(take_steps, world_size, config, accept=refuse_step_1_on_one_rank, **options)
    # The engine refuses a loss that is not finite, and leaves the same bits.
    infinite = run_ranks(take_steps, world_size, config, poisoned=1, **options)
    for ours, theirs in zip(refused, infinite, strict=True):
        assert ours.skipped == theirs.skipped == [False, True, False]
        assert theirs.norms[1] == float("inf")
        assert ours.bits[0] == ours.bits[1] != ours.bits[2]
        assert ours.bits == theirs.bits
        assert ours.adam_steps == theirs.adam_steps == 2
