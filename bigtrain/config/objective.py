"""The config section `objective`: what the model is trained for. Each key is documented here."""

from typing import Literal

from bigtrain.config.sections import Section


class ObjectiveConfig(Section):
    """What the model is trained for."""

    kind: Literal["pretraining", "answer_only"] = "pretraining"
    """pretraining: what model.kind is made for; answer_only: the next tokens of answers alone, for
    instruction tuning of a GPT (packing: answers)."""
