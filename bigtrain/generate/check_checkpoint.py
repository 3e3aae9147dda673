"""Checks, before torch is imported and anything is exported, what a checkpoint can do."""

from bigtrain.checkpoint.find_checkpoint import find_checkpoint
from bigtrain.checkpoint.schema import read_state
from bigtrain.config.model_kinds import MODEL_KINDS
from bigtrain.generate.errors import GenerationError


def check_checkpoint(place: str, *, fills_masks: bool) -> None:
    """Checks that a checkpoint is of a model that continues texts, or that fills masks.

    Args:
        place: A checkpoint or a run folder; a path or an fsspec URL.
        fills_masks: Whether masks are to be filled.

    Raises:
        CheckpointError: There is no such checkpoint.
        GenerationError: The model is of the other kind.
    """
    folder, _ = find_checkpoint(place)
    kind = read_state(folder).config.get("model", {}).get("kind", "gpt")
    traits = MODEL_KINDS.get(kind)
    if traits is None:  # Opening the checkpoint explains it.
        return
    if fills_masks and traits.is_causal:
        raise GenerationError(
            f"{place}: a {kind} does not predict masked tokens; leave out --fill-mask, or give a "
            "BERT"
        )
    if not fills_masks and not traits.is_causal:
        raise GenerationError(
            f"{place}: a {kind} predicts masked tokens and cannot continue a text; fill masks with "
            "--fill-mask 5, or give a GPT"
        )
