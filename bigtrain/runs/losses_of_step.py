"""The losses of a run at a step, from its metrics. No torch."""

from pathlib import Path

from bigtrain.track.metrics_file import read_metrics

_METRICS = "metrics.jsonl"
_FIGURES = ("loss", "mlm_loss", "sentence_loss")


def losses_of_step(place: str | Path, step: int) -> dict[str, float]:
    """The newest losses of training and validation up to a step.

    Args:
        place: A run folder, or a checkpoint in one.
        step: The step.

    Returns:
        Values in nats by name, such as ``validation loss``; empty if no metrics are found there.
    """
    if "://" in str(place):
        return {}
    folders = (Path(place), Path(place).absolute().parent.parent)
    file = next((folder / _METRICS for folder in folders if (folder / _METRICS).is_file()), None)
    if file is None:
        return {}
    found = {}
    for split in ("train", "validation"):
        events = [event for event in read_metrics(file, split) if event["step"] <= step]
        for name in _FIGURES:
            if events and name in events[-1]:
                found[f"{split} {name}"] = float(events[-1][name])
    return found
