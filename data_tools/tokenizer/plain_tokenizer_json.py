"""Changes a `tokenizer.json` so that ids are always the same and no text becomes a special token.

Removes truncation, padding, BPE dropout and post-processing. The library does not search for
special tokens in a text, but a model may still produce one, by merges or as a piece. Therefore a
pre-tokenizer that cuts the names of these tokens is added to the file.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

Encode = Callable[[str], Sequence[int]]


def plain_values(
    values: Mapping[str, Any],
    special: Mapping[str, int],
    encoder_of: Callable[[Mapping[str, Any]], Encode],
) -> dict[str, Any]:
    """Changes the content of a `tokenizer.json` as this module describes.

    Args:
        values: The content of a `tokenizer.json`.
        special: The ids that no text may become, by name.
        encoder_of: Builds a function from text to ids from such content.
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
        plain["pre_tokenizer"] = _with_cuts(at_risk, values.get("pre_tokenizer"), model)
    return plain


def cut_in_names(names: Collection[str], *, behavior: str) -> dict[str, Any]:
    """A pre-tokenizer that cuts each of these names in a text after its first letter.

    Args:
        names: The names to cut.
        behavior: `Isolated`, or `MergedWithPrevious`: the letter stays with the text before it.
    """
    pattern = "|".join(f"{literal(name[0])}(?={literal(name[1:])})" for name in names)
    return split_at(pattern, behavior)


def split_at(pattern: str, behavior: str) -> dict[str, Any]:
    """A pre-tokenizer of the tokenizers library that splits at a regular expression."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def literal(text: str) -> str:
    """A regular expression of the tokenizers library that matches the text."""
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)


def _is_spelled(name: str, token_id: int, encode: Encode) -> bool:
    return len(name) > 1 and any(
        token_id in encode(text)
        for text in (name, f" {name} ", f"a{name}a", f"1{name}1", f"\n{name}\n", f"{name}{name}")
    )


def _with_cuts(
    names: Collection[str], others: Mapping[str, Any] | None, model: Mapping[str, Any]
) -> dict[str, Any]:
    steps = [] if others is None else others.get("pretokenizers", [others])
    if model["type"] in ("WordLevel", "WordPiece"):
        steps = [*steps, split_at(_words_with_names(names, model), "Isolated")]
    else:
        steps = [cut_in_names(names, behavior="MergedWithPrevious"), *steps]
    return {"type": "Sequence", "pretokenizers": steps}


def _words_with_names(names: Collection[str], model: Mapping[str, Any]) -> str:
    """A pattern for the first letter of words that the model would turn into a special token.

    A WordLevel model does this if the word is the name, a WordPiece model if the word begins with
    the name and continues with letters of its other pieces. All other words keep their ids.
    """
    rest = ""
    if model["type"] == "WordPiece":
        prefix = model["continuing_subword_prefix"]
        inner = (piece.removeprefix(prefix) for piece in model["vocab"] if piece.startswith(prefix))
        letters = "".join(map(literal, sorted(set().union(*inner))))
        rest = f"[{letters}]*" if letters else ""
    first = "".join(literal(name[0]) for name in names)
    return f"\\A(?=(?:{'|'.join(map(literal, names))}){rest}\\z)[{first}]"
