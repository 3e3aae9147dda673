"""What may differ between a checkpoint's run and the run that resumes it."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from bigtrain.config.errors import ConfigError
from bigtrain.config.run import RunConfig

_IDENTITY = ("model", "seed", "data.sequence_length")
"""Another value is another run."""
_DELIBERATE = ("optim", "train.global_batch_size", "train.precision", "train.steps")
"""Another value changes the loss: it must be accepted by name."""


def check_resume(saved: dict[str, Any], now: RunConfig, *, accepted: Sequence[str] = ()) -> None:
    """Checks that ``now`` may go on from a checkpoint whose config is ``saved``.

    Args:
        saved: The config in the checkpoint.
        now: The config of this attempt.
        accepted: Keys whose change the user accepts.

    Raises:
        ConfigError: A key of the run's identity differs, or one that must be accepted was not.
    """
    try:
        before = RunConfig.model_validate(saved)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"the checkpoint's config does not fit this version of bigtrain: {path}: {first['msg']}"
        ) from None
    unknown = [key for key in accepted if not _covers_any(key)]
    if unknown:
        raise ConfigError(
            f"--accept-change {unknown[0]}: not a key that needs it; those are {', '.join(_DELIBERATE)}"
        )
    identity = [line for key in _IDENTITY for line in _differences(before, now, key, ())]
    if identity:
        raise ConfigError(
            f"run {now.name}: the checkpoint is of another run: {'; '.join(identity)}; "
            "give the new run another name, or set the values back"
        )
    deliberate = [line for key in _DELIBERATE for line in _differences(before, now, key, accepted)]
    if deliberate:
        keys = " ".join(f"--accept-change {line.split(' ')[0]}" for line in deliberate)
        raise ConfigError(
            f"run {now.name}: resuming would change {'; '.join(deliberate)}; "
            f"set back what you did not mean, or accept with {keys}"
        )


def _differences(
    before: RunConfig, now: RunConfig, key: str, accepted: Sequence[str]
) -> Iterator[str]:
    old, new = _leaves(before, key), _leaves(now, key)
    for path, value in new.items():
        if value != old[path] and not any(_is_within(path, name) for name in accepted):
            yield f"{path} from {old[path]!r} to {value!r}"


def _leaves(config: RunConfig, key: str) -> dict[str, Any]:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    if key == "train.steps":
        # More steps matter to the past only through the learning rate's decay.
        value = config.train.steps if config.optim.decay_steps is None else None
        value = None if config.optim.schedule == "constant" else value
    if hasattr(value, "model_dump"):
        return {f"{key}.{name}": leaf for name, leaf in value.model_dump().items()}
    return {key: value}


def _is_within(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _covers_any(name: str) -> bool:
    return any(_is_within(name, key) or _is_within(key, name) for key in _DELIBERATE)
