"""Whether a run may go on from a checkpoint: asked before any rank starts, and again. No torch."""

from collections.abc import Sequence
from pathlib import Path

from bigtrain.checkpoint.format import TrainState, newest_whole, read_state
from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.resume import check_resume
from bigtrain.data.checks import check_data
from bigtrain.data.stages import StageRecord, check_stages
from bigtrain.train.run_folder import RunFolder
from bigtrain.train.skips import with_skips


def check_run(config: RunConfig, *, accepted: Sequence[str] = ()) -> None:
    """Checks a run's data, and that it may go on from its newest checkpoint, if it has one.

    What the run was rewound to leave out counts as its config.

    Raises:
        ConfigError: Something does not fit; one line.
        InputError: A corpus or the tokenizer cannot be read.
        RunBusyError: Another process trains this run.
    """
    config = with_skips(config)
    data = check_data(config)
    folder = RunFolder(config.run_dir)
    folder.check_free()
    checkpoint, _ = newest_whole(folder.checkpoints)
    if checkpoint is not None:
        check_state(
            config,
            read_state(checkpoint),
            checkpoint=checkpoint,
            tokenizer_sha256=data.tokenizer.sha256,
            stages=data.stages,
            accepted=accepted,
        )


def check_state(
    config: RunConfig,
    state: TrainState,
    *,
    checkpoint: Path,
    tokenizer_sha256: str,
    stages: Sequence[StageRecord],
    accepted: Sequence[str] = (),
) -> None:
    """Checks that a run may go on from a checkpoint.

    Args:
        config: The run, as it is wanted now.
        state: The checkpoint's state.
        checkpoint: Its folder, for the message.
        tokenizer_sha256: Of the run's tokenizer.
        stages: What the run reads, as `record_stages` tells.
        accepted: Keys whose change the user accepts.

    Raises:
        ConfigError: The run's identity differs, or a change that needs it was not accepted.
    """
    check_resume(state.config, config, accepted=accepted)
    if tokenizer_sha256 != state.tokenizer_sha256:
        raise ConfigError(
            f"run {config.name}: {checkpoint} was trained with tokenizer "
            f"{state.tokenizer_sha256[:12]}, this is {tokenizer_sha256[:12]}; give the new run "
            "another name, or use the tokenizer that it began with"
        )
    check_stages(state.data_stages, stages, consumed=state.samples, where=str(checkpoint))
