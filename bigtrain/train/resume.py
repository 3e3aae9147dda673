"""Whether a run may go on from a checkpoint: asked before any rank starts, and again. No torch."""

from collections.abc import Sequence
from pathlib import Path

from bigtrain.checkpoint.format import TrainState, committed_folders, read_state
from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.resume import check_resume
from bigtrain.data.checks import check_data
from data_tools.manifest import load_manifest


def check_run(config: RunConfig, *, accepted: Sequence[str] = ()) -> None:
    """Checks a run's data, and that it may go on from its newest checkpoint, if it has one.

    Raises:
        ConfigError: Something does not fit; one line.
        InputError: A corpus or the tokenizer cannot be read.
        CheckpointError: The checkpoint's state cannot be read.
    """
    check_data(config)
    checkpoints = committed_folders(config.run_dir / "checkpoints")
    if checkpoints:
        check_state(config, read_state(checkpoints[0]), checkpoints[0], accepted=accepted)


def check_state(
    config: RunConfig, state: TrainState, checkpoint: Path, *, accepted: Sequence[str] = ()
) -> None:
    """Checks that ``config`` may go on from ``state``, the state of ``checkpoint``.

    Raises:
        ConfigError: The run's identity differs, or a change that needs it was not accepted.
    """
    check_resume(state.config, config, accepted=accepted)
    now = {
        "tokenizer": check_data(config).sha256,
        "corpus": load_manifest(Path(config.data.train)).fingerprint,
    }
    then = {"tokenizer": state.tokenizer_sha256, "corpus": state.data_stages[-1]["fingerprint"]}
    for what in ("tokenizer", "corpus"):
        if now[what] != then[what]:
            raise ConfigError(
                f"data.train={config.data.train}: {checkpoint} was trained with {what} "
                f"{then[what][:12]}, this is {now[what][:12]}; give the new run another name, "
                f"or use the {what} that it began with"
            )
