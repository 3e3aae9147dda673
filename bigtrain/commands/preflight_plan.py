"""Plans the preflight of a job from the config of its run and the profile of its cluster."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigtrain.config import RunConfig
    from bigtrain.runs.job_file import JobRecord
    from launcher.preflight.preflight import PreflightPlan


def preflight_plan(
    config: "RunConfig", record: "JobRecord", *, run_dir: Path, log_dir: Path, python: str
) -> "PreflightPlan":
    """The plan of a job's preflight.

    A single rank is not measured, because there is nothing to compare it with.

    Args:
        config: The run's config.
        record: The job.
        run_dir: The run folder, an absolute path on all nodes.
        log_dir: Its folder of logs.
        python: The Python interpreter of the ranks.

    Raises:
        ConfigError: The run's checkpoints are in another place than its config says.
        InputError: A corpus cannot be read.
        OSError: The tokenizer cannot be read.
    """
    from bigtrain.runs.node_check_arguments import node_check_arguments
    from launcher.preflight.judge import CPU_SLOW_RATIO, SLOW_RATIO, JudgePolicy
    from launcher.preflight.preflight import PreflightPlan

    file, gpus = run_dir / record.config, record.cluster.gpus_per_node
    command = (python, "-m", "bigtrain.cli", "preflight-rank", str(file))
    is_single = record.nodes * record.ranks_per_node == 1
    return PreflightPlan(
        arguments=node_check_arguments(config, config_file=file, gpus_per_node=gpus),
        command=() if is_single else command,
        ranks_per_node=record.ranks_per_node,
        folder=log_dir / "preflight" / "figures",
        file=run_dir / "preflight.json",
        # These ranks import torch first, on all nodes at once.
        node_seconds=record.cluster.start_seconds,
        policy=JudgePolicy(slow_ratio=SLOW_RATIO if gpus else CPU_SLOW_RATIO),
    )
