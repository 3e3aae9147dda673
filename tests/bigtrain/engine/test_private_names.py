"""The names of DeepSpeed that we lean on without its leave: gone or changed, these tests say so."""

import inspect
from collections.abc import Callable
from typing import Any

import deepspeed
import pytest
from deepspeed.runtime import base_optimizer, bf16_optimizer, utils
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero import partition_parameters, partitioned_param_coordinator
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from bigtrain.config import ConfigError
from bigtrain.config.sections import ParallelConfig
from bigtrain.engine.private import KNOWN_VERSION, check_version, needs_patches
from tests.distributed.steps import steps_config


def unwrapped(function: Any) -> Any:
    """What stands inside DeepSpeed's tracing wrapper, which hides it."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    inner = [value for value in cells if inspect.isfunction(value)]
    return inner[0] if function.__name__ == "wrapped_fn" and inner else function


SIGNATURES: dict[Callable[..., Any], list[str]] = {
    DeepSpeedZeroOptimizer.scaled_global_norm: ["self", "norm_type"],
    DeepSpeedZeroOptimizer.clear_backward_seen_flag: ["self"],
    DeepSpeedZeroOptimizer.update_lp_params: ["self"],
    DeepSpeedZeroOptimizer_Stage3.clear_backward_seen_flag: ["self"],
    DeepSpeedZeroOptimizer_Stage3._get_norm_groups: ["self"],
    DeepSpeedZeroOptimizer_Stage3._partition_all_parameters: ["self"],
    DeepSpeedZeroOptimizer_Stage3._reassign_or_swap_out_partitioned_parameters: [
        "self",
        "sub_group_id",
    ],
    DeepSpeedZeroOptimizer_Stage3._get_fp32_grad_state_partition: [
        "self",
        "param",
        "release_swap_buffers",
    ],
    DeepSpeedZeroOptimizer_Stage3._get_param_partition_rank: ["self", "param"],
    DeepSpeedZeroOptimizer_Stage3.get_param_id: ["self", "param"],
    bf16_optimizer.BF16_Optimizer.update_lp_params: ["self"],
    bf16_optimizer.get_global_norm_of_tensors: [
        "input_tensors",
        "norm_type",
        "mpu",
        "moe_ep_group",
    ],
    bf16_optimizer.BF16_Optimizer._update_hp_grad: [
        *("self", "lp", "group_idx", "param_idx", "clear_lp_grads")
    ],
    bf16_optimizer.BF16_Optimizer.clear_hp_grads: ["self"],
    DeepSpeedEngine.buffered_allreduce_fallback: ["self", "grads", "elements_per_buffer"],
    DeepSpeedZeroOptimizer.reduce_independent_p_g_buckets_and_remove_grads: ["self", "param", "i"],
    DeepSpeedEngine._backward_prologue_per_tensor: ["self", "grad"],
    utils.is_invalid_grad_norm: ["norm"],
    DeepSpeedEngine._backward_prologue: ["self"],
    base_optimizer.ZeROOptimizer.clear_backward_seen_flag: ["self"],
    partition_parameters.Init._convert_to_deepspeed_param: ["self", "param"],
    partitioned_param_coordinator.assert_ints_same_as_other_ranks: ["ints"],
}

USES: dict[Callable[..., Any], list[str]] = {
    # What a step asks us, in place of what it asked itself.
    DeepSpeedZeroOptimizer.step: ["self.scaled_global_norm()", "self.check_grad_overflow"],
    DeepSpeedZeroOptimizer_Stage3.step: ["self._get_norm_groups()", "is_invalid_grad_norm"],
    bf16_optimizer.BF16_Optimizer.step: ["get_global_norm_of_tensors(", "is_invalid_grad_norm"],
    DeepSpeedEngine.forward: ["self.optimizer.clear_backward_seen_flag()"],
    partitioned_param_coordinator.PartitionedParameterCoordinator.reset_step: [
        "assert_ints_same_as_other_ranks(["
    ],
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: unwrapped(f).__qualname__)
def test_a_function_that_we_replace_or_call_has_the_arguments_we_know(function: Any) -> None:
    assert list(inspect.signature(unwrapped(function)).parameters) == SIGNATURES[function]


@pytest.mark.parametrize("function", USES, ids=lambda f: unwrapped(f).__qualname__)
def test_deepspeed_itself_calls_what_we_replace(function: Any) -> None:
    source = inspect.getsource(unwrapped(function))
    assert [use for use in USES[function] if use not in source] == []


def test_the_installed_version_is_the_known_one() -> None:
    assert deepspeed.__version__ == KNOWN_VERSION


@pytest.mark.parametrize(
    ("parallel", "named"),
    [
        ({"zero": 3}, "parallel.zero=3"),
        ({"zero": 2, "pipeline": 2}, "parallel.zero=2 with parallel.pipeline=2"),
    ],
)
def test_another_version_is_refused_for_what_leans_on_patches(
    parallel: dict[str, int], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepspeed, "__version__", "0.20.0")
    with pytest.raises(ConfigError, match=rf"{named} leans .*0\.20\.0 is installed; pip install"):
        check_version(steps_config(parallel=parallel))


@pytest.mark.parametrize(
    "parallel", [{}, {"zero": 2}, {"zero": 1, "pipeline": 2}, {"tensor": 2, "sequence": True}]
)
def test_another_version_is_only_told_of_elsewhere(
    parallel: dict[str, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deepspeed, "__version__", "0.20.0")
    check_version(steps_config(parallel=parallel))
    assert f"tested with {KNOWN_VERSION}" in caplog.text
    assert needs_patches(ParallelConfig.model_validate(parallel)) is None
