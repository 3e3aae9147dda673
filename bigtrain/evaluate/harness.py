"""Runs tasks of EleutherAI's lm-evaluation-harness on an exported folder."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bigtrain.evaluate.figures import EvaluationError


def check_harness() -> None:
    """Checks that the harness is installed.

    Raises:
        EvaluationError: It is not.
    """
    if find_spec("lm_eval") is None:
        raise EvaluationError(
            "--lm-eval needs EleutherAI's lm-evaluation-harness; install it with "
            "pip install 'bigtrain[eval]'"
        )


def run_harness(folder: Path, tasks: Sequence[str], *, precision: str) -> dict[str, Any]:
    """Runs tasks through the harness's class for transformers.

    Args:
        folder: The exported folder.
        tasks: Names of tasks, or YAML files of tasks. A task file may name Python functions, which
            are then run.
        precision: ``fp32`` or ``bf16``.

    Returns:
        The metrics of each task by their names, such as ``acc,none``.

    Raises:
        EvaluationError: A task cannot be loaded.
    """
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from bigtrain.parallel.device import device_kind

    manager = TaskManager()
    try:
        manager.load(list(tasks))
    except Exception as error:  # The harness and its data sets raise many kinds.
        reason = " ".join(str(error).split())[:200]
        raise EvaluationError(
            f"--lm-eval {','.join(tasks)}: cannot be loaded ({reason}); give names that "
            "`lm_eval --tasks list` shows, or task files whose data is here"
        ) from error
    found = simple_evaluate(
        model="hf",
        model_args={
            "pretrained": str(folder),
            "dtype": {"fp32": "float32", "bf16": "bfloat16"}[precision],
        },
        tasks=list(tasks),
        task_manager=manager,
        device=device_kind("auto"),
        log_samples=False,
    )
    assert found is not None  # None on ranks other than the first; there is one.
    return {
        task: {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        for task, metrics in found["results"].items()
    }
