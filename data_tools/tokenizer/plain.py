"""A `tokenizer.json` as a corpus needs it: the same ids always, and no text is a special token.

What the file says of truncation, padding, BPE dropout and post-processing is left aside. The
library keeps special tokens from being found in a text, but a model may still spell one: by merges,
or as a piece. The names of those are cut in the file itself, so that all who read it get the same
ids.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

Encode = Callable[[str], Sequence[int]]


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
    model = dict(values["model"])
    if "dropout" in model:
        model["dropout"] = None
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


def _is_spelled(name: str, token_id: int, encode: Encode) -> bool:
    return len(name) > 1 and any(
        token_id in encode(text)
        for text in (name, f" {name} ", f"a{name}a", f"1{name}1", f"\n{name}\n", f"{name}{name}")
    )


def _cut_first(names: Collection[str], others: Mapping[str, Any] | None) -> dict[str, Any]:
    cut = cut_in_names(names, behavior="MergedWithPrevious")
    found = [] if others is None else others.get("pretokenizers", [others])
    return {"type": "Sequence", "pretokenizers": [cut, *found]}
