"""Writes our tokenizer as files that AutoTokenizer of transformers 4 and 5 loads.

A default call gives the ids of a training sample. For GPT it adds nothing, because training adds no
token before a document. For BERT it gives `[CLS] a [SEP] b [SEP]` and the token types of training.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigtrain.config.model_kinds import MODEL_KINDS, ModelKind
from bigtrain.convert.families import ExportError
from bigtrain.convert.special_ids import exported_ids
from data_tools.tokenizer import Tokenizer

_INPUTS = {
    "gpt": ["input_ids", "attention_mask"],
    "bert": ["input_ids", "token_type_ids", "attention_mask"],
}
# `generate` continues the end of each row, so a GPT pads on the left.
_PADDING_SIDES = {"gpt": "left", "bert": "right"}


def write_tokenizer(
    tokenizer: Tokenizer, folder: Path, *, kind: ModelKind, max_length: int
) -> None:
    """Writes the files that AutoTokenizer reads.

    Args:
        tokenizer: The run's tokenizer.
        folder: The folder for the files.
        kind: The kind of model, which decides what a default call adds.
        max_length: The longest sequence of the model.

    Raises:
        ExportError: A tokenizer.json cannot express this tokenizer.
    """
    values = tokenizer.tokenizer_json()
    if values is None:
        raise ExportError(
            f"no tokenizer.json gives the ids of this {tokenizer.kind} tokenizer, so transformers "
            "cannot load it; tokenize the text with another tokenizer and train again"
        )
    ids = exported_ids(kind, tokenizer.special)
    names = {role: tokenizer.piece(token_id) for role, token_id in ids.items()}
    if MODEL_KINDS[kind].reads_pairs:
        values = _for_bert(values, ids, names)
    _write_json(folder / "tokenizer.json", values)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",  # Both versions have this class.
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_length,
            "model_input_names": _INPUTS[kind],
            "padding_side": _PADDING_SIDES[kind],
            **{f"{role}_token": name for role, name in names.items()},
        },
    )
    if tokenizer.kind == "sentencepiece":  # For readers of SentencePiece models.
        (folder / tokenizer.file_name).write_bytes(tokenizer.content)


def _for_bert(
    values: Mapping[str, Any], ids: Mapping[str, int], names: Mapping[str, str]
) -> dict[str, Any]:
    # In training a mask replaces a word with the space before it, so it absorbs that space.
    added = [
        {**token, "lstrip": True} if token["id"] == ids["mask"] else token
        for token in values["added_tokens"]
    ]
    return {**values, "added_tokens": added, "post_processor": _pair_template(ids, names)}


def _pair_template(ids: Mapping[str, int], names: Mapping[str, str]) -> dict[str, Any]:
    def special(role: str, token_type: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": names[role], "type_id": token_type}}

    def text(name: str, token_type: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": token_type}}

    single = [special("cls", 0), text("A", 0), special("sep", 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), special("sep", 1)],
        "special_tokens": {
            names[role]: {"id": names[role], "ids": [ids[role]], "tokens": [names[role]]}
            for role in ("cls", "sep")
        },
    }


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", "utf-8")
