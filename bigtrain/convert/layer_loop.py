"""Runs a model of any size with the memory of one layer.

The model is built with one layer, which then stands for all layers: before each of its calls it
gets the weights of the next one.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedConfig

ReadTensor = Callable[[str], torch.Tensor]
"""Returns one of their tensors by name, in fp32."""


def loop_over_layers(
    module: torch.nn.Module, count: int, load_layer: Callable[[int], None]
) -> None:
    """Makes the only layer of a model stand for ``count`` layers.

    Args:
        module: A model that was built with one layer.
        count: The number of layers that a forward pass calls.
        load_layer: Copies the weights of the layer of this number, from 0 on, into the layer.
    """
    parent, name, layers = _only_layer_list(module)
    calls = 0

    def load_next(*_: Any) -> None:
        nonlocal calls
        load_layer(calls % count)
        calls += 1

    layers[0].register_forward_pre_hook(load_next)
    setattr(parent, name, torch.nn.ModuleList([layers[0]] * count))


@torch.no_grad()
def build_layer_by_layer(loader: Any, config: PreTrainedConfig, read: ReadTensor) -> Any:
    """Builds a transformers model that holds one layer, and reads each layer when it is called.

    Args:
        loader: The Auto class of transformers.
        config: The config of the complete model.
        read: Reads a tensor by its name in the complete model.
    """
    small = copy.deepcopy(config)
    # A cache would take the calls of the layer for one sequence.
    small.use_cache = False
    small.num_hidden_layers = 1
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:1]
    model = loader.from_config(small, dtype=torch.float32).eval()
    for part in model.modules():
        if hasattr(part, "config"):
            # Its other keys stay: transformers has chosen the kernel of attention there.
            part.config.num_hidden_layers = config.num_hidden_layers
            if getattr(config, "layer_types", None):
                part.config.layer_types = list(config.layer_types)
    path = next(name for name, each in model.named_modules() if each is _only_layer_list(model)[2])
    first = f"{path}.0."
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if not name.startswith(first):
            parameter.copy_(read(name))

    def load_layer(number: int) -> None:
        for name, parameter in parameters.items():
            if name.startswith(first):
                parameter.copy_(read(f"{path}.{number}.{name.removeprefix(first)}"))

    loop_over_layers(model, config.num_hidden_layers, load_layer)
    return model


def _only_layer_list(module: torch.nn.Module) -> tuple[torch.nn.Module, str, torch.nn.ModuleList]:
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == 1
    ]
    assert len(found) == 1, "a model has one list of layers"
    return found[0]
