"""How text was split into training and validation, and whether two parts may share text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """What a manifest says about the split of a corpus or a label table."""

    fingerprint: str
    split: str
    seed: int
    validation_percent: float | None
    """The percentage of text in the validation split; None if it is not known."""


def find_leak(train: SplitFacts, measured: SplitFacts) -> str | None:
    """Why text may be in both parts; None if it cannot.

    A document or row goes to validation if a hash of its content, keyed by the seed, is below the
    percentage. Parts split with the same seed therefore share no text, if training leaves out at
    least the percentage that validation takes.
    """
    if train.fingerprint == measured.fingerprint:
        return "they are the same corpus; give the validation split"
    if train.validation_percent is None or not measured.validation_percent:
        return None  # A corpus made by other means or never split: the manifest does not show it.
    if measured.split == "train":
        return (
            f"it is the training split that remains when {measured.validation_percent:g} % are "
            "taken for validation; give the validation split"
        )
    if train.seed != measured.seed and train.validation_percent:
        return (
            f"they were split with --seed {train.seed} and {measured.seed}, which select different "
            "documents; shard both with one seed"
        )
    if train.split == "validation" or train.validation_percent < measured.validation_percent:
        return (
            f"that is the {train.split} split made with --validation-percent "
            f"{train.validation_percent:g}, and data.validation was made with "
            f"{measured.validation_percent:g}; train on a training split made with this percentage "
            "or more"
        )
    return None
