"""These tests fail if a private name of DeepSpeed that bigtrain uses is removed or changed."""

import inspect
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import deepspeed
import pytest
from deepspeed.runtime import bf16_optimizer
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero import partitioned_param_coordinator
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from bigtrain.commands.launch import launch
from bigtrain.config import ConfigError
from bigtrain.config.sections import ParallelConfig
from bigtrain.engine import deepspeed_version
from bigtrain.engine.deepspeed_version import (
    KNOWN_VERSION,
    check_deepspeed_version,
    needs_known_version,
    warn_of_other_version,
)
from bigtrain.engine.private.patches import PATCHES, READS, Use
from tests.distributed.steps import steps_config


def unwrapped(function: Any) -> Any:
    """The function inside DeepSpeed's tracing wrapper."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    inner = [value for value in cells if inspect.isfunction(value)]
    return inner[0] if function.__name__ == "wrapped_fn" and inner else function


NAMES = sorted({name for use in (*PATCHES, *READS) for name in use.names})
FUNCTIONS = [name for name in NAMES if name.endswith(")")]
ATTRIBUTES = [name for name in NAMES if not name.endswith(")")]

CALLS: dict[Callable[..., Any], list[str]] = {
    # Functions of DeepSpeed, and the calls in their source that bigtrain's patches rely on.
    DeepSpeedZeroOptimizer.step: ["self.scaled_global_norm()", "self.check_grad_overflow"],
    DeepSpeedZeroOptimizer_Stage3.step: ["self._get_norm_groups()", "is_invalid_grad_norm"],
    bf16_optimizer.BF16_Optimizer.step: ["get_global_norm_of_tensors(", "is_invalid_grad_norm"],
    DeepSpeedEngine.step: [
        "self.optimizer.finalize_gradient_accumulation_boundary()",
        "elif self.enable_backward_allreduce and",
        "self.allreduce_gradients()",
    ],
    DeepSpeedEngine.is_gradient_accumulation_boundary: ["return self._running_engine_step"],
    DeepSpeedEngine.forward: ["self.optimizer.clear_backward_seen_flag()"],
    partitioned_param_coordinator.PartitionedParameterCoordinator.reset_step: [
        "assert_ints_same_as_other_ranks(["
    ],
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_replaced_or_called_function_has_the_expected_arguments(function: str) -> None:
    name, arguments = function.removesuffix(")").split("(")
    found = inspect.signature(unwrapped(resolve_name(f"deepspeed.{name}")))
    assert list(found.parameters) == arguments.split(", ")


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_an_attribute_that_is_read_or_set_exists_in_deepspeed(attribute: str) -> None:
    owner, _, name = attribute.rpartition(".")
    source = inspect.getsource(inspect.getmodule(resolve_name(f"deepspeed.{owner}")))  # type: ignore[arg-type]
    assert re.search(rf"\b{name}\b", source)


@pytest.mark.parametrize("use", [*PATCHES, *READS], ids=lambda use: use.by.__qualname__)
def test_the_table_lists_names_that_its_function_uses(use: Use) -> None:
    source = inspect.getsource(inspect.getmodule(use.by))  # type: ignore[arg-type]
    used = [re.split(r"[.(]", name.split("(")[0])[-1] for name in use.names]
    assert [name for name in used if name not in source] == []


@pytest.mark.parametrize("function", CALLS, ids=lambda f: unwrapped(f).__qualname__)
def test_deepspeed_calls_the_replaced_functions(function: Any) -> None:
    source = inspect.getsource(unwrapped(function))
    assert [call for call in CALLS[function] if call not in source] == []


def test_the_installed_version_is_the_supported_one() -> None:
    assert deepspeed.__version__ == deepspeed_version.installed_version() == KNOWN_VERSION
    assert version("deepspeed") == KNOWN_VERSION


@pytest.mark.parametrize(
    ("parallel", "named"),
    [
        ({"zero": 3}, "parallel.zero=3"),
        ({"zero": 2, "pipeline": 2}, "parallel.zero=2 with parallel.pipeline=2"),
    ],
)
def test_another_version_is_refused_for_layouts_that_need_patches(
    parallel: dict[str, int], named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(deepspeed_version, "installed_version", lambda: "0.20.0")
    refusal = rf"{named} depends .*0\.20\.0 is installed; pip install"
    with pytest.raises(ConfigError, match=refusal):
        check_deepspeed_version(steps_config(parallel=parallel))
    words = [f"parallel.{key}={value}" for key, value in parallel.items()]
    runs = tmp_path / "runs"
    with pytest.raises(ConfigError, match=refusal):
        launch(["configs/gpt/tiny.yaml", "parallel.tensor=1", f"runs_dir={runs}", *words])
    assert not runs.exists()


@pytest.mark.parametrize(
    "parallel", [{}, {"zero": 2}, {"zero": 1, "pipeline": 2}, {"tensor": 2, "sequence": True}]
)
def test_another_version_gives_a_warning_for_other_layouts(
    parallel: dict[str, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deepspeed_version, "installed_version", lambda: "0.20.0")
    check_deepspeed_version(steps_config(parallel=parallel))
    warn_of_other_version()
    assert f"tested with {KNOWN_VERSION}" in caplog.text
    assert needs_known_version(ParallelConfig.model_validate(parallel)) is None
