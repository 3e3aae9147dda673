"""Whether a run may go on from a checkpoint: asked before any rank starts, and again. No torch."""

from collections.abc import Sequence
from pathlib import Path

from bigtrain.checkpoint.format import TrainState, newest_whole, read_state
from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.resume import check_resume
from bigtrain.data.checks import check_data
from bigtrain.train.run_folder import RunFolder
from data_tools.manifest import load_manifest


def check_run(config: RunConfig, *, accepted: Sequence[str] = ()) -> None:
    """Checks a run's data, and that it may go on from its newest checkpoint, if it has one.

    Raises:
        ConfigError: Something does not fit; one line.
        InputError: A corpus or the tokenizer cannot be read.
        RunBusyError: Another process trains this run.
    """
    tokenizer = check_data(config)
    folder = RunFolder(config.run_dir)
    folder.check_free()
    checkpoint, _ = newest_whole(folder.checkpoints)
    if checkpoint is not None:
        check_state(
            config,
            read_state(checkpoint),
            checkpoint=checkpoint,
            tokenizer_sha256=tokenizer.sha256,
            fingerprint=load_manifest(Path(config.data.train)).fingerprint,
            accepted=accepted,
        )


def check_state(
    config: RunConfig,
    state: TrainState,
    *,
    checkpoint: Path,
    tokenizer_sha256: str,
    fingerprint: str,
    accepted: Sequence[str] = (),
) -> None:
    """Checks that a run may go on from a checkpoint.

    Args:
        config: The run, as it is wanted now.
        state: The checkpoint's state.
        checkpoint: Its folder, for the message.
        tokenizer_sha256: Of the run's tokenizer.
        fingerprint: Of the training corpus.
        accepted: Keys whose change the user accepts.

    Raises:
        ConfigError: The run's identity differs, or a change that needs it was not accepted.
    """
    check_resume(state.config, config, accepted=accepted)
    now = {"tokenizer": tokenizer_sha256, "corpus": fingerprint}
    then = {"tokenizer": state.tokenizer_sha256, "corpus": state.data_stages[-1]["fingerprint"]}
    for what in ("tokenizer", "corpus"):
        if now[what] != then[what]:
            raise ConfigError(
                f"data.train={config.data.train}: {checkpoint} was trained with {what} "
                f"{then[what][:12]}, this is {now[what][:12]}; give the new run another name, "
                f"or use the {what} that it began with"
            )
