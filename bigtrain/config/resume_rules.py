"""Which keys may differ between a checkpoint's config and the config of the run that resumes it."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from bigtrain.config.errors import ConfigError, key_paths, show_value, suggest_key
from bigtrain.config.model import ModelConfig
from bigtrain.config.run import RunConfig
from bigtrain.config.saved import with_paths_from_working_folder

_IDENTITY = ("model", "objective", "seed", "data.sequence_length")
"""Keys that identify the run: a different value is refused."""
_DELIBERATE = (
    "optim",
    "train.global_batch_size",
    "train.batch_ramp",
    "train.precision",
    "train.steps",
    "data.document_attention",
    "data.masking",
)
"""Keys that change the loss: a different value must be accepted with --accept-change."""


def load_saved_config(saved: dict[str, Any]) -> RunConfig:
    """Reads the config that a checkpoint holds; keys that it lacks take their defaults.

    Its relative paths start from the folder where the run was started, if it exists here.

    Raises:
        ConfigError: It does not fit this version, or the checkpoint is an import.
    """
    if _is_of_import(saved):
        raise ConfigError(
            "the checkpoint is an import: it has a model and no run's config; start a run from it "
            "with checkpoint.load"
        )
    try:
        return RunConfig.model_validate(with_paths_from_working_folder(saved))
    except ValidationError as error:
        raise _misfit(error) from None


def load_saved_model(saved: dict[str, Any]) -> ModelConfig:
    """Reads the model section of the config that a checkpoint holds.

    Raises:
        ConfigError: It does not fit this version.
    """
    if not _is_of_import(saved):
        return load_saved_config(saved).model
    try:
        return ModelConfig.model_validate(saved["model"])
    except ValidationError as error:
        raise _misfit(error) from None


def _is_of_import(saved: dict[str, Any]) -> bool:
    return set(saved) == {"model"}


def _misfit(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    path = ".".join(map(str, first["loc"]))
    return ConfigError(
        f"the checkpoint's config does not fit this version of bigtrain: {path}: {first['msg']}"
    )


def check_resume(
    saved: dict[str, Any], now: RunConfig, *, accepted: Sequence[str] = (), forks: bool = False
) -> None:
    """Checks that a run with config ``now`` may continue from a checkpoint with config ``saved``.

    Args:
        saved: The config in the checkpoint.
        now: The config of this attempt.
        accepted: Keys whose change the user accepts.
        forks: Whether the checkpoint belongs to another run, and this run starts from it.

    Raises:
        ConfigError: A key that identifies the run differs, or a change was not accepted.
    """
    before = load_saved_config(saved)
    for key in accepted:
        _check_acceptable(key, forks=forks)
    changes = _changes(before, now)
    identity = [change for path, change in changes.items() if _is_within_any(path, _IDENTITY)]
    if identity and forks:
        raise ConfigError(
            f"run {now.name}: continuing from checkpoint.load would change {'; '.join(identity)}; "
            "set the values back, or load only its weights (checkpoint.load_weights_only=true)"
        )
    if identity:
        raise ConfigError(
            f"run {now.name}: the checkpoint is of another run: {'; '.join(identity)}; "
            "give the new run another name, or set the values back"
        )
    deliberate = {
        path: change
        for path, change in changes.items()
        if _is_within_any(path, _DELIBERATE) and not _is_within_any(path, accepted)
    }
    if deliberate:
        continuing = "continuing from checkpoint.load" if forks else "resuming"
        accept = " ".join(f"--accept-change {path}" for path in deliberate)
        raise ConfigError(
            f"run {now.name}: {continuing} would change {'; '.join(deliberate.values())}; "
            f"set back what you did not intend, or accept with {accept}"
        )


def _check_acceptable(key: str, *, forks: bool) -> None:
    covered = [path for path in key_paths(RunConfig) if _is_within_any(path, (key,))]
    if any(_is_within_any(path, _DELIBERATE) for path in covered):
        return
    if not covered:
        reason = f"there is no such key; {suggest_key(key, RunConfig)}"
    elif any(_is_within_any(path, _IDENTITY) for path in covered):
        remedy = (
            "load only the weights (checkpoint.load_weights_only=true)"
            if forks
            else "give the new run another name"
        )
        reason = f"it identifies the run, so no flag accepts another value; {remedy}"
    else:
        reason = f"it may change freely, leave the flag out; only {', '.join(_DELIBERATE)} need it"
    raise ConfigError(f"--accept-change {key}: {reason}")


def _changes(before: RunConfig, now: RunConfig) -> dict[str, str]:
    earlier, later = before.model_dump(), now.model_dump()
    changes = {
        path: f"{path} from {show_value(old)} to {show_value(new)}"
        for path in key_paths(RunConfig)
        if (old := _value_at(earlier, path)) != (new := _value_at(later, path))
    }
    # These two affect past steps only through the step at which the decay ends.
    changes.pop("train.steps", None)
    changes.pop("optim.decay_steps", None)
    endless = {"constant", "inverse_sqrt"}
    decays = not endless & {before.optim.schedule, now.optim.schedule}
    if decays and before.decay_steps != now.decay_steps:
        given = before.optim.decay_steps or now.optim.decay_steps
        path = "optim.decay_steps" if given else "train.steps"
        keep = "" if given else f" (optim.decay_steps={before.decay_steps} keeps the decay)"
        changes[path] = f"{path} from {before.decay_steps} to {now.decay_steps}{keep}"
    return changes


def _value_at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def _is_within_any(path: str, names: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in names)
