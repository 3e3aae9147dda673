"""The properties of each kind of model and of its training objective, in one table.

Other packages read these properties and do not compare names of kinds. No torch. Other tables with
an entry for each kind: `models/build.py` (which module is built), `convert/families.py` (which
transformers class it becomes) and `convert/tokenizer_files.py` (how its tokenizer is exported).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ModelKind = Literal["gpt", "bert"]
Packing = Literal["concat", "bestfit", "pad", "pairs", "labels", "answers"]


@dataclass(frozen=True, slots=True)
class ObjectiveTraits:
    """The properties of a training objective that code without torch needs."""

    name: str
    """Its key in `objectives/table.py`."""
    task: str
    """What the model does, for messages: the end of a sentence "the model …"."""
    packings: tuple[Packing, ...]
    """The values of data.packing that make its samples."""
    loss_unit: str
    """Unit of the reported loss."""
    takes_z_loss: bool = False
    """Whether optim.z_loss may be added to its loss."""


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """The properties of a kind of model that code outside of `models/` needs."""

    objective: ObjectiveTraits
    is_causal: bool
    """Whether a position attends only to itself and earlier positions; such a model generates."""
    reads_pairs: bool
    """Whether it reads sentence pairs: it has token types, a padding mask, a head for masked tokens
    and a pooler with a sentence head."""
    exact_gelu: bool
    """Whether model.activation=gelu is the exact GELU; otherwise the tanh approximation."""
    fixed_keys: tuple[str, ...] = ()
    """Keys of the model section that keep their defaults."""
    fixed_keys_reason: str = ""
    """Why these keys keep their defaults, for messages."""


NEXT_TOKEN = ObjectiveTraits(
    name="next_token",
    task="predicts the next token",
    packings=("concat", "bestfit", "pad"),
    loss_unit="nats/token",
    takes_z_loss=True,
)
MASKED_PAIRS = ObjectiveTraits(
    name="masked_pairs",
    task="learns from sentence pairs (make them with `bigtrain data samples`)",
    packings=("pairs",),
    loss_unit="nats",  # The sum of nats per token and nats per pair.
)
ANSWER_ONLY = ObjectiveTraits(
    name="answer_only",
    task="learns answers (make tables of them with `bigtrain data label`)",
    packings=("answers",),
    loss_unit="nats/token",
    takes_z_loss=True,
)

CLASSIFICATION = ObjectiveTraits(
    name="classification",
    task="learns classes (make tables of them with `bigtrain data label`)",
    packings=("labels",),
    loss_unit="nats/row",
)

FINE_TUNING: Mapping[str, ObjectiveTraits] = {
    "answer_only": ANSWER_ONLY,
    "classification": CLASSIFICATION,
}
"""The objectives that a run chooses by objective.kind; otherwise the kind of model has its own."""

MODEL_KINDS: Mapping[ModelKind, ModelTraits] = {
    "gpt": ModelTraits(
        NEXT_TOKEN,
        is_causal=True,
        reads_pairs=False,
        exact_gelu=False,
        fixed_keys=("norm_position",),
        fixed_keys_reason="GPT has a norm before each block",
    ),
    "bert": ModelTraits(
        MASKED_PAIRS,
        is_causal=False,
        reads_pairs=True,
        exact_gelu=True,
        fixed_keys=("num_kv_heads", "positions", "norm", "activation", "biases", "qk_norm"),
        fixed_keys_reason="BERT has learned positions, LayerNorm, GELU and biases",
    ),
}
