"""This rank's chunks of the model: as DeepSpeed sees them, and as megatron-core's schedule does.

If the schedule does not find an attribute, it skips the work *silently*, so all are defined here.
DeepSpeed's engine cannot be passed to the schedule: its attribute ``config`` is DeepSpeed's own.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch


class ChunkList(torch.nn.ModuleList):
    """This rank's chunks as one module, because DeepSpeed takes one."""

    def forward(self, number: int, *args: Any, **kwargs: Any) -> Any:
        """Runs one chunk."""
        return self[number](*args, **kwargs)


class ScheduledChunk(torch.nn.Module):
    """A chunk as the schedule sees it: its forward pass runs through DeepSpeed."""

    def __init__(self, engine: Any, module: Any, *, number: int) -> None:
        super().__init__()
        # Not registered as submodules: the parameters belong to DeepSpeed's engine alone.
        object.__setattr__(self, "_engine", engine)
        object.__setattr__(self, "module", module)
        self._number = number
        self.config = module.config
        self.model_type = module.model_type
        self.vp_stage = getattr(module, "vp_stage", None)
        self.ddp_config = SimpleNamespace(use_megatron_fsdp=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the chunk through DeepSpeed, whose hooks need to see it."""
        return self._engine(self._number, *args, **kwargs)

    def set_input_tensor(self, tensor: Any) -> None:
        """Takes the activations of the stage before."""
        self.module.set_input_tensor(tensor)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        """The chunk's parameters, under its own names."""
        return self.module.named_parameters(*args, **kwargs)

    def modules(self) -> Iterator[torch.nn.Module]:
        """The chunk's modules."""
        return self.module.modules()

    def finish_grad_sync(self, *_: Any, **__: Any) -> None:
        """Does nothing: DeepSpeed reduces the gradients."""
