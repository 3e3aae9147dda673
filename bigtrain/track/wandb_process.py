"""Calls wandb, in the process of the wandb sink (`sink_process`)."""

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bigtrain.track.sink_process import Message, Report, one_line, serve
from bigtrain.track.wandb_settings import choose_mode


class ConfigurationError(ValueError):
    """The user's settings for wandb cannot be read; the message is one line."""


class WandbBackend:
    """The wandb run of an attempt."""

    idle_seconds = None

    def open(self, request: Message, report: Report) -> None:
        """Opens the run, online or offline; with ``only_check`` only says which it would be."""
        import wandb

        report(imported=True)
        try:
            mode, why = choose_mode(request["mode"], wandb.setup().settings)
        except Exception as error:
            sources = "WANDB_ variables, .netrc, or a settings file"
            raise ConfigurationError(
                f"wandb's configuration ({sources}): {self.describe(error)}"
            ) from error
        report(mode_chosen=mode, why=why)
        if request.get("only_check"):
            os._exit(0)
        self._run = _open_run(wandb, request, mode)
        report(mode=mode, why=why, folder=str(Path(self._run.dir).parent))

    def log(self, messages: list[Message]) -> None:
        """Logs each message."""
        for message in messages:
            self._run.log(message)

    def finish(self, state: str) -> None:
        """Finishes the run; wandb shows every end except a failure as a success."""
        self._run.finish(exit_code=int(state == "failed"))

    def describe(self, error: BaseException) -> str:
        """One line about an error; its type is left out if wandb raised it."""
        text = " ".join(str(error).split())
        errors = getattr(error, "errors", None)  # A pydantic error about wandb's settings.
        if callable(errors):
            return "; ".join(f"{'.'.join(e['loc'])}={e['input']!r}: {e['msg']}" for e in errors())[
                :300
            ]
        is_plain = text and type(error).__module__.startswith(("wandb", __name__))
        return text[:300] if is_plain else one_line(error)


def _open_run(wandb: Any, request: Message, mode: str) -> Any:
    run = wandb.init(
        project=request["project"],
        name=request["name"],
        id=request["run_id"],
        resume="allow",
        dir=request["run_dir"],
        mode=mode,
        config=request["config"],
        settings=wandb.Settings(silent=True, console="off"),
    )
    # Offline, wandb counts steps from zero in every attempt, so the x-axis is the training step.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), WandbBackend())
