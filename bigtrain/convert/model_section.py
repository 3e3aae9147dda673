"""What the readers of transformers' configs share: how a config is refused, and dropout."""

import logging
from typing import Any, NoReturn

from transformers import PreTrainedConfig

from bigtrain.checkpoint.hugging_face_folder import ImportRefusal

log = logging.getLogger(__name__)


def refuse(reason: str) -> NoReturn:
    """Refuses a config.

    Raises:
        ImportRefusal: Always.
    """
    raise ImportRefusal(f"config.json: {reason}")


def refuse_others(config: PreTrainedConfig, key: str, *allowed: Any) -> None:
    """Refuses a config in which a key has a value that our model cannot compute.

    Args:
        config: The config.
        key: One of its keys.
        allowed: The values that our model computes.

    Raises:
        ImportRefusal: The key has another value.
    """
    value = getattr(config, key)
    if value not in allowed:
        refuse(f"{key}={value}; bigtrain's model has {' or '.join(map(str, allowed))}")


def common_dropout(config: PreTrainedConfig, *keys: str) -> float:
    """The value of all dropout keys; 0 if they differ, because our model has one dropout."""
    values = {key: float(getattr(config, key)) for key in keys}
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    shown = ", ".join(f"{key}={value:g}" for key, value in values.items())
    log.warning("config.json: %s differ, and model.dropout is one value; it is set to 0", shown)
    return 0.0
