"""Lets megatron-core run on CPU with gloo, by redirecting its CUDA calls to the CPU."""

import ctypes
import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _CudaToCpu(TorchFunctionMode):
    """Creates on the CPU the tensors that are requested on CUDA."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        if kwargs and _is_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **(kwargs or {}))


class _Stream:
    """Replaces torch.cuda.Stream. It does nothing, because calls on CPU are synchronous."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def wait_stream(self, *_: Any) -> None:
        """Does nothing."""

    wait_event = synchronize = wait_stream

    def record_event(self, *_: Any) -> "_Stream":
        """Returns an event that is already complete."""
        return self


_installed: list[_CudaToCpu] = []

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Makes this process keep freed memory and use it in the next step.

    By default glibc returns large blocks to the kernel, and the kernel fills new pages with
    zeros, which takes a tenth to a fifth of a step. Most steps allocate the same sizes. Does
    nothing without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_TOP_PAD, 1 << 26)


def install() -> None:
    """Makes megatron-core run on CPU in this process, until the process ends."""
    if _installed:
        return
    import megatron.core.tensor_parallel.random as megatron_random

    # On CPU the CPU's generator replaces the GPU's, and a warning about its state is wrong.
    logging.getLogger(megatron_random.__name__).setLevel(logging.ERROR)
    mode = _CudaToCpu()
    mode.__enter__()
    _installed.append(mode)
    cuda: Any = torch.cuda
    cuda.current_device = lambda: torch.device("cpu")
    cuda.synchronize = lambda *_, **__: None
    cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
    cuda.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    cuda.manual_seed = torch.manual_seed
    cuda.is_current_stream_capturing = lambda: False
    cuda.Stream = _Stream
    cuda.current_stream = cuda.default_stream = _Stream
    cuda.stream = lambda *_: nullcontext()
    cuda.nvtx.range_push = cuda.nvtx.range_pop = lambda *_, **__: None
    random_module: Any = megatron_random
    random_module._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    random_module._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()


def _is_cuda(device: Any) -> bool:
    # megatron-core also passes an integer, as torch.cuda.current_device() returns on CUDA.
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return device == "cuda" or (isinstance(device, int) and not isinstance(device, bool))
