"""Our tensors, made of those of a Hugging Face folder, one after the other."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bigtrain.checkpoint.hugging_face_folder import ImportRefusal
from bigtrain.checkpoint.schema import WEIGHT
from bigtrain.checkpoint.tensor_table import box_slices
from bigtrain.checkpoint.writing import Box, cut_box
from bigtrain.convert.import_plan import ImportPlan
from bigtrain.convert.mapping import Identity, PaddedRows, Rule
from bigtrain.convert.their_config import TheirModel
from bigtrain.convert.their_weights import TheirTensor
from bigtrain.models.initial import fill_initial_values


@dataclass(frozen=True, slots=True)
class ImportSource:
    """The tensors of a Hugging Face folder as ours; a tensor is read when it is asked for."""

    folder: Path
    their: TheirModel
    plan: ImportPlan
    seed: int
    """Of the initial values of tensors that begin anew."""

    def boxes(self) -> Iterator[Box]:
        """The boxes of all tensors of ours, one tensor after the other."""
        for rule in self.plan.rules:
            shape = self.plan.our_shape(rule)
            key = f"{WEIGHT}/{rule.ours}"
            cuts = list(cut_box(shape, global_shape=shape))
            if self.has_their_rows(rule, shape):
                for offset, size in cuts:
                    rows = self.rows(rule, offset[0], offset[0] + size[0])
                    yield Box(key, shape, offset, rows.numpy())
                continue
            tensor = self.tensor(rule)
            for offset, size in cuts:
                yield Box(key, shape, offset, tensor[box_slices(offset, size)].numpy())

    def has_their_rows(self, rule: Rule, shape: tuple[int, ...]) -> bool:
        """Whether rows can be read one by one, which large embeddings need."""
        is_plain = isinstance(rule.mapping, Identity | PaddedRows) and not rule.rows
        return is_plain and shape[0] > 1 and not self.plan.begins_anew(rule)

    def rows(self, rule: Rule, first: int, last: int) -> torch.Tensor:
        """Rows of our tensor; padding of the vocabulary is zero."""
        theirs = self.plan.tensors[rule.their_names[0]]
        end = min(last, theirs.shape[0])
        rows = _finite(theirs, theirs.read_rows(first, end)) if first < end else None
        if end == last and rows is not None:
            return rows
        padded = torch.zeros(last - first, *theirs.shape[1:])
        if rows is not None:
            padded[: end - first] = rows
        return padded

    def tensor(self, rule: Rule) -> torch.Tensor:
        """Our tensor of a rule."""
        if self.plan.begins_anew(rule):
            return self.initial(rule)
        parts = {name: self.read(name) for name in rule.their_names}
        return rule.from_hugging_face(parts).contiguous()

    def read(self, name: str) -> torch.Tensor:
        """One of their tensors, in fp32."""
        tensor = self.plan.tensors[name]
        return _finite(tensor, tensor.read())

    def initial(self, rule: Rule) -> torch.Tensor:
        """Initial values of our tensor; padding of the vocabulary is zero."""
        shape = self.plan.our_shape(rule)
        values = torch.empty(shape)
        fill_initial_values(
            values,
            name=rule.ours,
            global_shape=shape,
            offset=(0,) * len(shape),
            model=self.their.model,
            seed=self.seed,
        )
        return rule.from_hugging_face(rule.to_hugging_face(values))


def _finite(where: TheirTensor, values: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise ImportRefusal(
            f"{where.file}: {where.name} has {bad:,} values that are NaN or infinite; download it "
            "again, or give an earlier checkpoint of that model"
        )
    return values
