"""All training objectives by name. A new one is a file in this folder and a line here.

Its name and the data modes that feed it are traits of a kind of model: `config/model_kinds.py`.
"""

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
