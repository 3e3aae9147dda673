"""Wraps this rank's chunks of the model, for DeepSpeed and for megatron-core's schedule.

If a chunk lacks an attribute, the schedule skips work *silently*, so all attributes are defined
here. DeepSpeed's engine cannot be passed to the schedule: its ``config`` is DeepSpeed's own config.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch


class ChunkList(torch.nn.ModuleList):
    """This rank's chunks as one module, because DeepSpeed accepts only one."""

    def forward(self, number: int, *args: Any, **kwargs: Any) -> Any:
        """Runs the chunk with this number."""
        return self[number](*args, **kwargs)


class ScheduledChunk(torch.nn.Module):
    """A chunk for the schedule; its forward pass runs through DeepSpeed's engine."""

    def __init__(self, engine: Any, module: Any, *, number: int) -> None:
        super().__init__()
        # Not registered as submodules: only DeepSpeed's engine owns the parameters.
        object.__setattr__(self, "_engine", engine)
        object.__setattr__(self, "module", module)
        self._number = number
        self.config = module.config
        self.model_type = module.model_type
        self.vp_stage = getattr(module, "vp_stage", None)
        self.ddp_config = SimpleNamespace(use_megatron_fsdp=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the chunk through DeepSpeed's engine, so that its hooks are called."""
        return self._engine(self._number, *args, **kwargs)

    def set_input_tensor(self, tensor: Any) -> None:
        """Sets the activations that the previous stage has sent."""
        self.module.set_input_tensor(tensor)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        """Yields the chunk's parameters, with their names within the chunk."""
        return self.module.named_parameters(*args, **kwargs)

    def modules(self) -> Iterator[torch.nn.Module]:
        """The chunk's modules."""
        return self.module.modules()

    def finish_grad_sync(self, *_: Any, **__: Any) -> None:
        """Does nothing: DeepSpeed reduces the gradients."""
