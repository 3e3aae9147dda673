"""The smallest config of a run, and functions to load it with other values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import ConfigError, RunConfig, load_run_config

SMALL_YAML = """\
name: small
model: {num_layers: 4, hidden_size: 48, num_heads: 4, vocab_size: 300, max_sequence_length: 32}
data: {train: corpus, sequence_length: 32}
optim: {learning_rate: 1e-3}
train: {steps: 20, global_batch_size: 8, micro_batch_size: 2}
"""


class ConfigFolder:
    """A working folder with `small.yaml` in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("small.yaml", SMALL_YAML)

    def write(self, name: str, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        (self.path / name).write_bytes(data)

    def load(self, *sources: str) -> RunConfig:
        return load_run_config(["small.yaml", *sources])

    def load_with(self, content: str | bytes) -> RunConfig:
        self.write("more.yaml", content)
        return self.load("more.yaml")

    def refuse(self, *sources: str) -> str:
        return refusal(["small.yaml", *sources])

    def refuse_with(self, content: str | bytes) -> str:
        self.write("more.yaml", content)
        return self.refuse("more.yaml")


def refusal(sources: list[str]) -> str:
    """The one-line error message with which a config is refused."""
    with pytest.raises(ConfigError) as caught:
        load_run_config(sources)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def leaf(config: RunConfig, path: str) -> Any:
    value: Any = config.model_dump()
    for key in path.split("."):
        assert isinstance(value, Mapping)
        value = value[key]
    return value
