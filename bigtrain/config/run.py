"""The config of a whole run, checked against the rules that relate its sections."""

from pathlib import Path

from pydantic import field_validator, model_validator

from bigtrain.config.errors import ConfigError
from bigtrain.config.rules import RULES, next_multiple
from bigtrain.config.run_sections import RunSections


class RunConfig(RunSections):
    """Everything that determines what a run does."""

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        is_word = name == name.strip() and name.isprintable() and 0 < len(name.encode()) <= 200
        if not is_word or name.startswith(".") or set(name) & set("/\\"):
            raise ValueError(
                "a run's name is also its folder: printable, at most 200 bytes, "
                "no slash, no leading dot, no space around it; try one such as gpt-tiny"
            )
        return name

    @model_validator(mode="after")
    def _sections_agree(self) -> "RunConfig":
        problems = [problem for rule in RULES for problem in rule(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return Path(self.runs_dir) / self.name

    def data_parallel_size(self, world_size: int) -> int:
        """Copies of the model on ``world_size`` ranks.

        Raises:
            ConfigError: The layout does not divide the number of ranks or the batch size.
        """
        model_ranks = self.parallel.model_parallel_size
        if world_size < 1 or world_size % model_ranks:
            raise ConfigError(
                f"parallel.tensor={self.parallel.tensor} × parallel.pipeline="
                f"{self.parallel.pipeline} needs a multiple of {model_ranks} processes, not "
                f"{world_size}; start {next_multiple(max(world_size, 1), model_ranks)} "
                "or change the layout"
            )
        copies = world_size // model_ranks
        micro, ramp = self.train.micro_batch_size, self.train.batch_ramp
        ranks = f"train.micro_batch_size={micro} × {copies} data ranks"
        per_pass = copies * micro
        if self.parallel.virtual_pipeline > 1:
            # The interleaved schedule needs a multiple of the number of stages as microbatches.
            per_pass *= self.parallel.pipeline
            ranks += f" × {self.parallel.pipeline} stages (parallel.virtual_pipeline is above 1)"
        sizes = {"train.global_batch_size": self.train.global_batch_size}
        if ramp is not None:
            sizes["train.batch_ramp.start"] = ramp.start
            sizes["train.batch_ramp.increment"] = ramp.increment
        for key, size in sizes.items():
            if size % per_pass:
                raise ConfigError(
                    f"{key}={size} is not a multiple of {ranks}; "
                    f"try {next_multiple(size, per_pass)}"
                )
        return copies

    def batch_size(self, consumed: int) -> int:
        """Number of samples in the batch that begins after ``consumed`` samples."""
        ramp, full = self.train.batch_ramp, self.train.global_batch_size
        if ramp is None or consumed >= ramp.samples:
            return full
        increments = (full - ramp.start) // ramp.increment
        return ramp.start + ramp.increment * (consumed * increments // ramp.samples)
