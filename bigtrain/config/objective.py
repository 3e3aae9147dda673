"""The config section `objective`: what the model is trained for. Each key is documented here."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from bigtrain.config.sections import Section


def _name_numbers(labels: Any) -> Any:
    """Lets whole numbers, which YAML reads from ``[0, 1]``, be the names of classes."""
    if not isinstance(labels, list | tuple):
        return labels
    return [str(each) if type(each) is int else each for each in labels]


class ObjectiveConfig(Section):
    """What the model is trained for."""

    kind: Literal["pretraining", "answer_only", "classification"] = "pretraining"
    """pretraining: what model.kind is made for; answer_only: the next tokens of answers alone, for
    instruction tuning of a GPT (packing: answers); classification: the class of a text or of two
    texts, by a head that begins anew (packing: labels)."""
    labels: Annotated[tuple[str, ...], BeforeValidator(_name_numbers), Field(strict=False)] = ()
    """The classes, in the order of the label table; only for classification."""

    @model_validator(mode="after")
    def _labels_go_with_classification(self) -> "ObjectiveConfig":
        if self.kind != "classification":
            if self.labels:
                raise ValueError(
                    "objective.labels is for objective.kind=classification; leave it out"
                )
            return self
        if len(self.labels) < 2:
            raise ValueError(
                "objective.labels must name at least two classes: those that `bigtrain data label` "
                "printed for the table"
            )
        for name in self.labels:
            if self.labels.count(name) > 1:
                raise ValueError(f"objective.labels names {name} twice; name it once")
        return self
