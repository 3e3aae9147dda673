"""Which of their tensors each of ours is made of, before a byte of a weight is read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from bigtrain.checkpoint.hugging_face_folder import ImportRefusal
from bigtrain.convert.mapping import Rule, expand
from bigtrain.convert.their_config import TheirModel
from bigtrain.convert.their_weights import TheirTensor, TheirWeights, canonical_names

_SHOWN = 3
"""How many tensors a message names."""


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """The rules of an import, one for each of our tensors, and the tensors they read."""

    rules: tuple[Rule, ...]
    tensors: Mapping[str, TheirTensor]
    """By their names in the model with heads."""
    shapes: Mapping[str, tuple[int, ...]]
    """The shape of each of their tensors that a rule names, present or not."""
    anew: frozenset[str]
    """Names of theirs that the folder lacks; ours begin anew with initial values."""
    unused: tuple[str, ...]
    """Names in the folder that no output depends on."""
    same: Mapping[str, str]
    """Names in the folder of tensors that must be equal to another, because weights are tied."""

    def begins_anew(self, rule: Rule) -> bool:
        """Whether our tensor of this rule begins anew."""
        return any(name in self.anew for name in rule.their_names)

    def our_shape(self, rule: Rule) -> tuple[int, ...]:
        """The global shape of our tensor of a rule."""
        parts = {name: torch.empty(self.shapes[name], device="meta") for name in rule.their_names}
        return tuple(rule.from_hugging_face(parts).shape)


def plan_import(their: TheirModel, weights: TheirWeights) -> ImportPlan:
    """Compares the tensors of a folder with those of the model of its config.

    Raises:
        ImportRefusal: A tensor is missing, is not of the model, or has another shape.
    """
    with torch.device("meta"):
        model = their.family.loader.from_config(their.config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    rules = {rule.ours: rule for rule in _expanded(their)}
    wanted = {name for rule in rules.values() for name in rule.their_names}
    aliases = _aliases(model, wanted)
    found = canonical_names(weights.tensors, prefix=their.type.prefix, known=set(shapes))
    for name in [name for name in found if aliases.get(name, name) not in found]:
        found[aliases[name]] = found.pop(name)  # A tied weight may be saved under any of its names.
    missing = sorted(wanted - set(found))
    refused = [name for name in missing if not name.startswith(their.type.may_begin_anew)]
    if refused:
        raise ImportRefusal(
            f"{weights.folder} lacks {_list(refused, shapes)} of the model in config.json; "
            "download it again"
        )
    if extra := sorted(set(found) - set(shapes)):
        listed = _list(extra, {name: found[name].shape for name in extra})
        raise ImportRefusal(
            f"{weights.folder} has {listed}, which {their.architecture} does not have; remove what "
            "is not of the model, or give another folder"
        )
    for name, tensor in found.items():
        if tensor.shape != shapes[name]:
            raise ImportRefusal(
                f"{tensor.file}: {tensor.name} has shape {list(tensor.shape)}, and config.json "
                f"makes it {list(shapes[name])}; the two are of different models"
            )
    others = set(found) - wanted
    return ImportPlan(
        rules=tuple(rules.values()),
        tensors=found,
        shapes=shapes,
        anew=frozenset(missing),
        unused=tuple(sorted(others - set(aliases))),
        same={name: aliases[name] for name in sorted(others & set(aliases))},
    )


def _expanded(their: TheirModel) -> Iterator[Rule]:
    return expand(their.family.rules(their.model), their.model.num_layers)


def _aliases(model: torch.nn.Module, wanted: set[str]) -> dict[str, str]:
    """Other names of parameters that a rule names."""
    owners = {id(p): n for n, p in _named(model) if n in wanted}
    return {n: owners[id(p)] for n, p in _named(model) if n not in wanted and id(p) in owners}


def _named(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return list(model.named_parameters(remove_duplicate=False))


def _list(names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    shown = ", ".join(f"{name} {list(shapes[name])}" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({shown}{more})"
