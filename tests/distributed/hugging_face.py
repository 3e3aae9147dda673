"""A bigtrain model and the transformers model with the same weights, from the mapping tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.convert.families import family_of
from bigtrain.convert.mapping import expand
from bigtrain.environment import read_ranks
from bigtrain.models.build import build_chunks, materialize
from bigtrain.models.initial import fill_initial_values
from bigtrain.models.shards import shards_of
from bigtrain.parallel.device import choose_device
from bigtrain.parallel.groups import process_groups
from data_tools.tokenizer.special_tokens import ROLES, SpecialIds

ONE_RANK = Layout()


@contextmanager
def one_rank() -> Iterator[torch.device]:
    """Sets up the process groups of a single process."""
    ranks = read_ranks()
    device = choose_device("cpu", ranks)
    with process_groups(ranks, ONE_RANK, device):
        yield device


def build_unsplit_model(
    config: RunConfig, *, random_std: float | None = None
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Builds a model that is not split, and its tensors by global name, inside ``one_rank()``.

    Args:
        config: The run.
        random_std: Standard deviation of random normal values for all weights, norms and biases
            too. By default the weights are the run's initial weights.
    """
    (module,) = build_chunks(config, ONE_RANK)
    shards = shards_of(module)
    materialize(module, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            for shard in shards[name]:
                size = torch.Size(shard.shape).numel()
                view = parameter.view(-1)[shard.start : shard.start + size].view(shard.shape)
                if random_std is None:
                    fill_initial_values(
                        view,
                        name=shard.name,
                        global_shape=shard.global_shape,
                        offset=shard.offset,
                        model=config.model,
                        seed=config.seed,
                    )
                else:
                    view.normal_(std=random_std, generator=generator)
                whole = tensors.setdefault(shard.name, torch.empty(shard.global_shape))
                where = zip(shard.offset, shard.shape, strict=True)
                whole[tuple(slice(first, first + n) for first, n in where)] = view
    return module, tensors


def build_transformers_model(config: RunConfig, tensors: dict[str, torch.Tensor]) -> Any:
    """The transformers model with the same weights; raises if one of its tensors is missing."""
    family, model = family_of(config.model), config.model
    no_ids = SpecialIds(**dict.fromkeys(ROLES, -1))
    twin = family.loader.from_config(family.config(model, no_ids), attn_implementation="eager")
    state: dict[str, torch.Tensor] = {}
    for rule in expand(family.rules(model), model.num_layers):
        state |= rule.to_hugging_face(tensors[rule.ours])
    missing, unexpected = twin.load_state_dict(state, strict=False)
    tied = {"lm_head.weight", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert not unexpected and set(missing) <= (tied if model.tie_embeddings else set())
    return twin
