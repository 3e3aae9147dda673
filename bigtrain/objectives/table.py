"""All training objectives by name. A new one is a file in this folder and a line here.

Its name and the data modes that feed it are in `config/model_kinds.py`, as a trait of a kind of
model, or, for fine-tuning, under the value of objective.kind that chooses it.
"""

from bigtrain.config import RunConfig
from bigtrain.objectives.answer_only import AnswerOnly
from bigtrain.objectives.classification import Classification
from bigtrain.objectives.masked_pairs import MaskedPairs
from bigtrain.objectives.next_token import NextToken
from bigtrain.objectives.objective import Objective

OBJECTIVES: dict[str, Objective] = {
    "next_token": NextToken(),
    "masked_pairs": MaskedPairs(),
    "answer_only": AnswerOnly(),
    "classification": Classification(),
}


def objective_of(config: RunConfig) -> Objective:
    """The objective of a run."""
    objective = OBJECTIVES[config.objective_traits.name]
    if isinstance(objective, Classification):
        return Classification(config.objective.labels)
    return objective
