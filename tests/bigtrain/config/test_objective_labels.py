"""The names of classes in a run's config."""

from bigtrain.config.objective import ObjectiveConfig


def test_whole_numbers_name_classes() -> None:
    values = {"kind": "classification", "labels": [0, 1]}
    assert ObjectiveConfig.model_validate(values).labels == ("0", "1")
