"""The special ids of an export. With them, transformers' defaults are those of training."""

from bigtrain.config.model_kinds import MODEL_KINDS, ModelKind
from data_tools.tokenizer import SpecialIds

_CONFIG_ROLES = ("bos", "eos", "pad")


def exported_ids(kind: ModelKind, special: SpecialIds) -> dict[str, int]:
    """The special ids of an export by their roles; roles without a token are left out.

    A GPT is trained on a stream of documents with an eos after each and no bos. So its bos is the
    eos, and so is its pad if it has none, as in GPT-2's own tokenizer.
    """
    ids = special.present()
    if MODEL_KINDS[kind].is_causal:
        ids = {**ids, "bos": special.eos, "pad": ids.get("pad", special.eos)}
    return ids


def ids_of_model(kind: ModelKind, special: SpecialIds) -> dict[str, int | None]:
    """The keys `bos_token_id`, `eos_token_id` and `pad_token_id` of a config."""
    ids = exported_ids(kind, special)
    return {f"{role}_token_id": ids.get(role) for role in _CONFIG_ROLES}
