"""Whether a run may resume from a checkpoint: checked before ranks start, and again by them.

No torch.
"""

from collections.abc import Sequence
from pathlib import Path

from bigtrain.checkpoint.commit import newest_complete, no_complete_checkpoint_error, open_state
from bigtrain.checkpoint.dangling_links import check_links
from bigtrain.checkpoint.find_checkpoint import find_checkpoint
from bigtrain.checkpoint.hugging_face_folder import is_hugging_face_folder
from bigtrain.checkpoint.owner import check_owner
from bigtrain.checkpoint.run_checkpoints import (
    check_checkpoints_are_its_own,
    checkpoints_of_run,
    is_same_place,
    original_of,
)
from bigtrain.checkpoint.schema import TrainState
from bigtrain.checkpoint.step_folders import CHECKPOINTS, named_folders
from bigtrain.checkpoint.storage_folder import DiskFolder, Folder, open_folder
from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.errors import show_value
from bigtrain.config.resume_rules import check_resume, load_saved_model
from bigtrain.data.corpus_checks import check_data
from bigtrain.data.phase_record import PhaseRecord, check_phases
from bigtrain.plan.parameters import count_parameters
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.run_lock import check_not_locked
from bigtrain.track.packages import check_packages

_FREE_OF_IMPORTS = ("model.dropout", "model.init_std")
"""Keys that an import's config gives and a run may choose."""


def check_run(config: RunConfig, *, accepted: Sequence[str] = ()) -> None:
    """Checks a run's data, and that it may resume from its newest checkpoint, if it has one.

    A Hugging Face folder that the run starts from is checked when it is imported.

    Raises:
        ConfigError: Something does not fit, or the package of a sink is missing; one line.
        CheckpointError: No checkpoint of the run can be read, or ``checkpoint.load`` cannot.
        InputError: A corpus or the tokenizer cannot be read.
        RunBusyError: Another process trains this run.
    """
    check_packages(config)
    check_links(config.run_dir)
    folder = RunFolder(config.run_dir)
    folder.check_place()
    data = check_data(config)
    check_not_locked(config.run_dir)
    checkpoints = open_checkpoints(config)
    check_owner(config, checkpoints)
    checkpoint, skipped = newest_complete(checkpoints)
    if checkpoint is None and skipped:
        raise no_complete_checkpoint_error(checkpoints, skipped)
    forks = checkpoint is None
    if checkpoint is None:
        check_checkpoints_not_lost(folder, checkpoints)
    load = config.checkpoint.load
    if checkpoint is None and load is not None and not is_hugging_face_folder(load):
        checkpoint, _ = find_checkpoint(load)
    if checkpoint is None:
        return
    state, sha256 = open_state(checkpoint), data.tokenizer.sha256
    if forks and (config.checkpoint.load_weights_only or not state.has_moments):
        check_weights(
            config, state, checkpoint=checkpoint, tokenizer_sha256=sha256, accepted=accepted
        )
        return
    check_state(
        config,
        state,
        checkpoint=checkpoint,
        tokenizer_sha256=sha256,
        phases=data.phase_records,
        accepted=accepted,
        forks=forks,
    )


def open_checkpoints(config: RunConfig) -> Folder:
    """Opens the folder of the run's checkpoints.

    Raises:
        ConfigError: The run has checkpoints in another folder than its config names, or the run
            folder is a copy and the checkpoints belong to its original.
        FolderError: The folder cannot be created.
    """
    if config.checkpoint.dir is None:
        checkpoints: Folder = DiskFolder(config.run_dir / CHECKPOINTS)
    else:
        checkpoints = open_folder(config.checkpoint.dir).child(config.name)
    before = checkpoints_of_run(config.run_dir)
    if _are_copied_too(config.run_dir, checkpoints):
        before = checkpoints
    else:
        check_checkpoints_are_its_own(config.run_dir)
    has_some = bool(named_folders(checkpoints))
    if is_same_place(before, checkpoints):
        pass
    elif config.checkpoint.dir is not None and _is_in(before, config.checkpoint.dir):
        if before.names() or not has_some:
            checkpoints = before  # The run folder was renamed; its checkpoints were not.
    elif named_folders(before) and not has_some:
        raise ConfigError(
            f"run {config.name}: its checkpoints are in {before}, but checkpoint.dir is "
            f"{checkpoints}; set checkpoint.dir back, or move them there"
        )
    if isinstance(checkpoints, DiskFolder):
        check_links(checkpoints.path)
    checkpoints.check_place()
    return checkpoints


def _are_copied_too(run_dir: Path, checkpoints: Folder) -> bool:
    """Whether a run folder is a copy with its own checkpoints, not those of its original."""
    original = original_of(run_dir)
    if original is None or not named_folders(checkpoints):
        return False
    return not is_same_place(checkpoints_of_run(original), checkpoints)


def _is_in(folder: Folder, place: str) -> bool:
    return is_same_place(open_folder(place).child(folder.name), folder)


def check_checkpoints_not_lost(folder: RunFolder, checkpoints: Folder) -> None:
    """Checks that a run without checkpoints never saved one: its disk may not be mounted.

    Raises:
        ConfigError: The run has saved a checkpoint, and the folder of checkpoints is empty.
    """
    last = folder.last_checkpoint
    if last is not None and not checkpoints.names():
        raise ConfigError(
            f"{folder.path}: the run has saved {last}, and {checkpoints} is empty or missing; "
            "check that its disk is mounted, or remove the run folder to start from the beginning"
        )


def check_weights(
    config: RunConfig,
    state: TrainState,
    *,
    checkpoint: Folder,
    tokenizer_sha256: str,
    accepted: Sequence[str] = (),
) -> None:
    """Checks, from the configs, that a run may start from a checkpoint's weights.

    Args:
        config: The run's config.
        state: The checkpoint's state.
        checkpoint: Its folder, for the message.
        tokenizer_sha256: The sha256 of the run's tokenizer.
        accepted: Keys of the model that may differ from an import's.

    Raises:
        ConfigError: The tokenizer differs, the model has another number of weights, or the model
            computes something else than an import.
    """
    if tokenizer_sha256 != state.tokenizer_sha256:
        raise ConfigError(
            f"run {config.name}: checkpoint.load={checkpoint} was trained with tokenizer "
            f"{state.tokenizer_sha256[:12]}, and the corpus has {tokenizer_sha256[:12]}; shard the "
            "corpus with the tokenizer.model in the checkpoint, or leave checkpoint.load out"
        )
    theirs, ours = load_saved_model(state.config), config.model
    sizes = [count_parameters(model).padded_total for model in (theirs, ours)]
    before, now = theirs.model_dump(), ours.model_dump()
    differing = {
        f"model.{key}": f"model.{key} is {show_value(now[key])}, in the checkpoint "
        f"{show_value(before[key])}"
        for key in now
        if now[key] != before[key]
    }
    changes = list(differing.values())
    if not state.has_moments and sizes[0] == sizes[1]:
        refused = {k: v for k, v in differing.items() if k not in {*_FREE_OF_IMPORTS, *accepted}}
        if refused:
            raise ConfigError(
                f"run {config.name}: with the weights of checkpoint.load={checkpoint} this model "
                f"computes something else: {'; '.join(refused.values())}; use model.yaml beside "
                f"the import, or accept with {' '.join(f'--accept-change {k}' for k in refused)}"
            )
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"run {config.name}: checkpoint.load={checkpoint} has {sizes[0]:,} weights, this model "
            f"{sizes[1]:,}: {'; '.join(changes)}; set these as in the checkpoint"
        )


def check_state(
    config: RunConfig,
    state: TrainState,
    *,
    checkpoint: Folder,
    tokenizer_sha256: str,
    phases: Sequence[PhaseRecord],
    accepted: Sequence[str] = (),
    forks: bool = False,
) -> None:
    """Checks that a run may resume from a checkpoint.

    Args:
        config: The run's config now.
        state: The checkpoint's state.
        checkpoint: Its folder, for the message.
        tokenizer_sha256: The sha256 of the run's tokenizer.
        phases: The records of the run's data phases, from `record_phases`.
        accepted: Keys whose change the user accepts.
        forks: Whether the checkpoint belongs to another run, and this run starts from it.

    Raises:
        ConfigError: The run's identity differs, a change was not accepted, or a fork has no
            step left to take.
    """
    otherwise = (
        "load only the weights (checkpoint.load_weights_only=true)"
        if forks
        else "give the new run another name"
    )
    check_resume(state.config, config, accepted=accepted, forks=forks)
    if tokenizer_sha256 != state.tokenizer_sha256:
        remedy = "leave checkpoint.load out" if forks else otherwise
        raise ConfigError(
            f"run {config.name}: {checkpoint} was trained with tokenizer "
            f"{state.tokenizer_sha256[:12]}, the run has {tokenizer_sha256[:12]}; {remedy}, or use "
            "the tokenizer that it was trained with"
        )
    check_phases(
        state.data_stages,
        phases,
        consumed=state.samples,
        where=str(checkpoint),
        otherwise=otherwise,
    )
    if forks and state.step >= config.train.steps:
        raise ConfigError(
            f"run {config.name}: checkpoint.load={checkpoint} is of step {state.step} already; "
            f"raise train.steps={config.train.steps}, or give an earlier checkpoint"
        )
