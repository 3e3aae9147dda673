"""A `tokenizer.json` as a corpus needs it: the same ids always, and no text is a special token.

What the file says of truncation, padding, BPE dropout and post-processing is left aside. The
library keeps special tokens from being found in a text, but a model may still spell one: by merges,
or as a piece. That is made impossible in the file itself, so that all who read it get the same ids.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

Encode = Callable[[str], Sequence[int]]

NEVER = -1e6
"""A score far below every other way to spell the same letters with pieces."""


def plain_values(
    values: Mapping[str, Any],
    special: Mapping[str, int],
    encoder_of: Callable[[Mapping[str, Any]], Encode],
) -> dict[str, Any]:
    """The same tokenizer, without what a corpus does not need.

    Args:
        values: What is in a `tokenizer.json`.
        special: The ids of the special tokens, by name.
        encoder_of: Builds the tokenizer of such values, which gives the ids of a text.
    """
    model = _model(values["model"], special.keys())
    added = [
        {key: value for key, value in token.items() if key != "roles"}
        for token in values["added_tokens"]
    ]
    plain = {
        **values,
        "added_tokens": added,
        "model": model,
        "truncation": None,
        "padding": None,
        "post_processor": None,
    }
    encode = encoder_of(plain)
    at_risk = [name for name, i in special.items() if _is_spelled(name, i, encode)]
    if at_risk:
        plain["pre_tokenizer"] = _cut_first(at_risk, values.get("pre_tokenizer"))
    return plain


def cut_in_names(names: Collection[str], *, behavior: str) -> dict[str, Any]:
    """A pre-tokenizer that cuts each of these names, where a text has one, behind its first letter.

    Args:
        names: What is cut.
        behavior: `Isolated`, or `MergedWithPrevious`: the letter stays with the text before.
    """
    pattern = "|".join(f"{literal(name[0])}(?={literal(name[1:])})" for name in names)
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def literal(text: str) -> str:
    """A regular expression of the tokenizers library that matches the text."""
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)


def _model(model: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    plain = dict(model)
    if "dropout" in plain:
        plain["dropout"] = None
    if isinstance(plain.get("vocab"), list):  # Unigram: pieces and their scores.
        plain["vocab"] = [
            [piece, NEVER if piece in names else score] for piece, score in plain["vocab"]
        ]
    if "merges" in plain:
        plain["merges"] = [pair for pair in plain["merges"] if _merged(pair) not in names]
    return plain


def _merged(pair: str | Sequence[str]) -> str:
    left, right = pair.split(" ") if isinstance(pair, str) else pair
    return left + right


def _is_spelled(name: str, token_id: int, encode: Encode) -> bool:
    return len(name) > 1 and any(
        token_id in encode(text) for text in (name, f" {name} ", f"a{name}a", f"{name}{name}")
    )


def _cut_first(names: Collection[str], others: Mapping[str, Any] | None) -> dict[str, Any]:
    cut = cut_in_names(names, behavior="MergedWithPrevious")
    found = [] if others is None else others.get("pretokenizers", [others])
    return {"type": "Sequence", "pretokenizers": [cut, *found]}
