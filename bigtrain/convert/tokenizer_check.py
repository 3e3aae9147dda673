"""Compares an exported tokenizer with ours through the calls that transformers users make."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from bigtrain.config.model_kinds import MODEL_KINDS, ModelKind
from bigtrain.convert.special_ids import exported_ids
from data_tools.tokenizer import HARD_TEXTS, Tokenizer, equally_likely

_MAX_SHOWN = 24
"""How many characters of a text a message shows."""
_SPACE_MARK = "\u2581"
_CALLED_TEXTS = 8
"""On how many texts the calls are compared."""


@dataclass(frozen=True, slots=True)
class Differences:
    """Where an exported tokenizer differs from ours, one short line for every case."""

    wrong: list[str] = field(default_factory=list)
    tolerated: list[str] = field(default_factory=list)
    """Texts that SentencePiece and the tokenizers library may split differently: both splits have
    the same score except for rounding, or they normalise rare combining marks differently."""


def compare_tokenizers(
    tokenizer: Tokenizer, folder: Path, texts: Sequence[str], *, kind: ModelKind
) -> Differences:
    """Compares ids, decoded texts, default calls, pairs, batches and special tokens.

    Ids and decoded texts must be equal. If decoding with our tokenizer restores every text, theirs
    must do so too. Texts with U+2581 are not compared.

    Args:
        tokenizer: Ours.
        folder: The export.
        texts: Texts to compare on.
        kind: The kind of the exported model.
    """
    theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    values = tokenizer.tokenizer_json()
    assert values is not None
    found = Differences()
    comparable = [text for text in texts if _SPACE_MARK not in text]
    for text in comparable:
        ids = tokenizer.encode(text).tolist()
        other = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if other != ids:
            line = _describe_first_id(text, ids, other, tokenizer)
            is_known = equally_likely(values, ids, other) or _is_minor(tokenizer, text, ids, other)
            (found.tolerated if is_known else found.wrong).append(line)
            continue
        expected = text if tokenizer.exact else tokenizer.decode(ids)
        decoded = theirs.decode(ids, skip_special_tokens=True)
        if decoded != expected:
            found.wrong.append(_describe_first_character(text, expected, decoded))
    names = [token["content"] for token in values["added_tokens"] if token["special"]]
    plain = [text for text in comparable if not any(name in text for name in names)]
    calls = _Calls(tokenizer, theirs, kind)
    found.wrong.extend(calls.differences(plain[:_CALLED_TEXTS]))
    return found


class _Calls:
    """Compares the calls that users make with the ids of training samples."""

    def __init__(self, tokenizer: Tokenizer, theirs: Any, kind: ModelKind) -> None:
        self._ours, self._theirs, self._traits = tokenizer, theirs, MODEL_KINDS[kind]
        self._ids = exported_ids(kind, tokenizer.special)

    def differences(self, texts: Sequence[str]) -> Iterator[str]:
        yield from self._special_tokens()
        for text, second in pairwise(texts):
            yield from self._compare("the default call", [text], self._theirs(text))
            yield from self._compare("a pair", [text, second], self._theirs(text, second))
        if texts:
            yield from self._batch(texts)
            yield from self._truncated(max(texts, key=len))

    def _compare(self, what: str, texts: Sequence[str], found: Any) -> Iterator[str]:
        ids, types = self._sample([self._ours.encode(text).tolist() for text in texts])
        if found["input_ids"] != ids:
            got = _show(found["input_ids"])
            yield f"{what} of {_quote(texts[0])} gives {got}, not {_show(ids)}"
        elif found.get("token_type_ids", types) != types:
            yield f"{what} of {_quote(texts[0])} gives other token types"

    def _sample(self, parts: Sequence[list[int]]) -> tuple[list[int], list[int]]:
        """The ids and token types of a training sample of these texts."""
        if not self._traits.reads_pairs:
            ids = [i for part in parts for i in part]
            return ids, [0] * len(ids)
        begin, end = self._ids["cls"], self._ids["sep"]
        first, *others = [[*part, end] for part in parts]
        rest = [i for other in others for i in other]
        return [begin, *first, *rest], [0] * (len(first) + 1) + [1] * len(rest)

    def _batch(self, texts: Sequence[str]) -> Iterator[str]:
        if "pad" not in self._ids:
            return
        found = self._theirs(list(texts), padding=True)
        rows = [self._sample([self._ours.encode(text).tolist()])[0] for text in texts]
        longest = max(map(len, rows))
        for text, row, ids, mask in zip(
            texts, rows, found["input_ids"], found["attention_mask"], strict=True
        ):
            fill, ones = [self._ids["pad"]] * (longest - len(row)), [1] * len(row)
            blank = [0] * len(fill)
            expected = (fill + row, blank + ones)
            if not self._traits.is_causal:
                expected = (row + fill, ones + blank)
            if (ids, mask) != expected:
                what = f"{_quote(text)} in a padded batch"
                yield f"{what} gives {_show(ids)}, not {_show(expected[0])}"

    def _truncated(self, text: str) -> Iterator[str]:
        ids = self._ours.encode(text).tolist()
        length = max(3, len(ids) // 2)
        added = len(self._sample([[]])[0])
        expected, _ = self._sample([ids[: length - added]])
        found = self._theirs(text, truncation=True, max_length=length)["input_ids"]
        if found != expected:
            yield f"{_quote(text)} cut to {length} gives {_show(found)}, not {_show(expected)}"

    def _special_tokens(self) -> Iterator[str]:
        """The name of a special token must become that token, as in a chat template."""
        for role, token_id in self._ids.items():
            name = self._ours.piece(token_id)
            found = self._theirs(name, add_special_tokens=False)["input_ids"]
            if found != [token_id] or getattr(self._theirs, f"{role}_token_id") != token_id:
                yield f"the {role} token {name!r} gives {found}, not [{token_id}]"
            if name not in self._theirs.decode([token_id]):
                yield f"the {role} token {token_id} is decoded without its name {name!r}"
        template = "{% for message in messages %}{{ message.content + end }}{% endfor %}"
        found = self._theirs.apply_chat_template(
            [{"role": "user", "content": "hello"}],
            chat_template=template,
            end=self._theirs.eos_token,
            return_dict=True,
        )["input_ids"]
        expected = [*self._ours.encode("hello").tolist(), self._ids["eos"]]
        if found != expected:
            yield f"a chat template gives {_show(found)}, not {_show(expected)}"


def _is_minor(tokenizer: Tokenizer, text: str, ids: Sequence[int], other: Sequence[int]) -> bool:
    if tokenizer.exact or tokenizer.kind != "sentencepiece" or text in HARD_TEXTS:
        return False
    one, two = Counter(ids), Counter(other)
    return ((one - two) + (two - one)).total() <= max(8, len(ids) // 50)


def _describe_first_id(
    text: str, ids: Sequence[int], found: Sequence[int], tokenizer: Tokenizer
) -> str:
    at = _first_difference(ids, found)
    before = tokenizer.decode(ids[:at])
    return (
        f"ids of {_quote(text)}: from id {at} on, after {before[-_MAX_SHOWN:]!r}, "
        f"{ids[at : at + 3]} became {list(found[at : at + 3])}"
    )


def _describe_first_character(text: str, expected: str, decoded: str) -> str:
    at = _first_difference(expected, decoded)
    return (
        f"decoded text of {_quote(text)}: from character {at} on, "
        f"{expected[at : at + _MAX_SHOWN]!r} became {decoded[at : at + _MAX_SHOWN]!r}"
    )


def _first_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> int:
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


def _quote(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")


def _show(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:12]))
    return f"[{shown}{', …' if len(ids) > 12 else ''}]"
