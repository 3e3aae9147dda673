"""What megatron-core's schedule sees of a DeepSpeed engine.

What the schedule asks for and does not find it skips *silently*, so all of it is spelled out here.
The engine itself will not do: its ``config`` is DeepSpeed's.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch


class Chunks(torch.nn.ModuleList):
    """This rank's chunks of the model as one module, which is what DeepSpeed wants to see."""

    def forward(self, number: int, *args: Any, **kwargs: Any) -> Any:
        """Runs one chunk."""
        return self[number](*args, **kwargs)


class Stage(torch.nn.Module):
    """A chunk of the model: forwards run through the engine, questions go to the chunk."""

    def __init__(self, engine: Any, module: Any, *, number: int) -> None:
        super().__init__()
        # Not as submodules: the parameters belong to the engine alone.
        object.__setattr__(self, "_engine", engine)
        object.__setattr__(self, "module", module)
        self._number = number
        self.config = module.config
        self.model_type = module.model_type
        self.vp_stage = getattr(module, "vp_stage", None)
        self.ddp_config = SimpleNamespace(use_megatron_fsdp=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model through DeepSpeed, whose hooks need to see it."""
        return self._engine(self._number, *args, **kwargs)

    def set_input_tensor(self, tensor: Any) -> None:
        """Takes the activations of the stage before."""
        self.module.set_input_tensor(tensor)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        """The model's, under its own names."""
        return self.module.named_parameters(*args, **kwargs)

    def modules(self) -> Iterator[torch.nn.Module]:
        """The model's."""
        return self.module.modules()

    def finish_grad_sync(self, *_: Any, **__: Any) -> None:
        """DeepSpeed reduces the gradients, in its step."""
