"""Whether a run may go on from a checkpoint: asked before any rank starts, and again. No torch."""

from collections.abc import Sequence

from bigtrain.checkpoint.folder import DiskFolder, Folder, open_folder
from bigtrain.checkpoint.format import (
    CHECKPOINTS,
    TrainState,
    named_folders,
    newest_whole,
    none_is_whole,
    open_state,
)
from bigtrain.checkpoint.locate import checkpoints_of_run, find_checkpoint
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
        CheckpointError: No checkpoint of the run can be read, or the one to begin with cannot.
        InputError: A corpus or the tokenizer cannot be read.
        RunBusyError: Another process trains this run.
    """
    config = with_skips(config)
    data = check_data(config)
    folder = RunFolder(config.run_dir)
    folder.check_free()
    checkpoints = open_checkpoints(config)
    checkpoint, passed_over = newest_whole(checkpoints)
    weights_only = False
    if checkpoint is None and passed_over:
        raise none_is_whole(checkpoints, passed_over)
    if checkpoint is None and config.checkpoint.load is not None:
        checkpoint, _ = find_checkpoint(config.checkpoint.load)
        weights_only = config.checkpoint.load_weights_only
    if checkpoint is None:
        return
    state, sha256 = open_state(checkpoint), data.tokenizer.sha256
    if weights_only:
        check_vocabulary(config, state, checkpoint=checkpoint, tokenizer_sha256=sha256)
        return
    check_state(
        config,
        state,
        checkpoint=checkpoint,
        tokenizer_sha256=sha256,
        stages=data.stages,
        accepted=accepted,
    )


def open_checkpoints(config: RunConfig) -> Folder:
    """The folder of the run's checkpoints.

    Raises:
        ConfigError: The config has another one than the run began with, which holds some.
    """
    if config.checkpoint.dir is None:
        checkpoints: Folder = DiskFolder(config.run_dir / CHECKPOINTS)
    else:
        checkpoints = open_folder(config.checkpoint.dir).child(config.name)
    before = checkpoints_of_run(config.run_dir)
    if str(before) != str(checkpoints) and named_folders(before) and not named_folders(checkpoints):
        raise ConfigError(
            f"run {config.name}: its checkpoints are in {before}, and checkpoint.dir says "
            f"{checkpoints}; set checkpoint.dir back, or move them there"
        )
    return checkpoints


def check_vocabulary(
    config: RunConfig, state: TrainState, *, checkpoint: Folder, tokenizer_sha256: str
) -> None:
    """Checks that a checkpoint's weights know the run's tokens.

    Raises:
        ConfigError: The tokenizer is another one.
    """
    if tokenizer_sha256 != state.tokenizer_sha256:
        raise ConfigError(
            f"run {config.name}: {checkpoint} was trained with tokenizer "
            f"{state.tokenizer_sha256[:12]}, this is {tokenizer_sha256[:12]}; give the new run "
            "another name, or use the tokenizer that it began with"
        )


def check_state(
    config: RunConfig,
    state: TrainState,
    *,
    checkpoint: Folder,
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
    check_vocabulary(config, state, checkpoint=checkpoint, tokenizer_sha256=tokenizer_sha256)
    check_stages(state.data_stages, stages, consumed=state.samples, where=str(checkpoint))
