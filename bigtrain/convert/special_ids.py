"""Special ids as an export names them, so that transformers' defaults are those of training."""

from typing import Literal

from data_tools.tokenizer import SpecialIds

ModelKind = Literal["gpt", "bert"]
_OF_MODEL = ("bos", "eos", "pad")


def exported_ids(kind: ModelKind, special: SpecialIds) -> dict[str, int]:
    """The special ids of an export by their roles; roles without a token are left out.

    A GPT saw documents in a row, each followed by eos and none begun with bos: so eos is what
    begins a text, and what fills up a batch where there is no pad, as GPT-2's own tokenizer has it.
    """
    ids = special.present()
    if kind == "gpt":
        ids = {**ids, "bos": special.eos, "pad": ids.get("pad", special.eos)}
    return ids


def ids_of_model(kind: ModelKind, special: SpecialIds) -> dict[str, int | None]:
    """The keys `bos_token_id`, `eos_token_id` and `pad_token_id` of a config."""
    ids = exported_ids(kind, special)
    return {f"{role}_token_id": ids.get(role) for role in _OF_MODEL}
