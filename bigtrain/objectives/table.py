"""All training objectives by name. A new objective is one file in this folder and one line here."""

from bigtrain.config.model import ModelConfig
from bigtrain.objectives.masked_pairs import MaskedPairs
from bigtrain.objectives.next_token import NextToken
from bigtrain.objectives.objective import Objective

OBJECTIVES: dict[str, Objective] = {
    "next_token": NextToken(),
    "masked_pairs": MaskedPairs(),
}


def objective_of(model: ModelConfig) -> Objective:
    """The objective that a model is trained on."""
    return OBJECTIVES[model.traits.objective.name]
