"""A streamed text is the decoded text, without a stop string and without halves of characters."""

from collections.abc import Sequence

import pytest
import torch

from bigtrain.generate.stop_strings import StopStrings
from bigtrain.generate.streaming import Streamer

BYTES = "día 你好\n\n  end STOP more".encode()


def decode(ids: Sequence[int]) -> str:
    """A tokenizer in which each id is a byte."""
    return bytes(ids).decode("utf-8", "replace")


def stream(content: bytes, *, stop: Sequence[str] = ()) -> list[str]:
    parts: list[str] = []
    streamer = Streamer(decode, parts.append, stop=stop)
    streamer.put(torch.tensor([[1, 2, 3]]))
    for each in content:
        streamer.put(torch.tensor([each]))
    streamer.end()
    return parts


def test_all_parts_together_are_the_decoded_text() -> None:
    parts = stream(BYTES)
    assert "".join(parts) == BYTES.decode()
    assert len(parts) > 15
    assert not any("\ufffd" in part for part in parts)


@pytest.mark.parametrize("stop", [["STOP"], ["好\n"], ["zzz", "more", "STOP"]])
def test_a_stop_string_and_what_follows_is_never_shown(stop: list[str]) -> None:
    text = BYTES.decode()
    first = min(text.find(each) for each in stop if each in text)
    assert "".join(stream(BYTES, stop=stop)) == text[:first]


def test_what_may_become_a_stop_string_is_shown_if_it_does_not() -> None:
    assert "".join(stream(b"a STO", stop=["STOP"])) == "a STO"


def test_stop_strings_look_at_the_new_text_of_each_row_only() -> None:
    criterion = StopStrings(["你\n"], decode, start=3)
    rows = ["a\n", "你\n", "你"]
    width = max(len(row.encode()) for row in rows)
    ids = [[*"你".encode(), *row.encode().ljust(width, b" ")] for row in rows]
    assert criterion(torch.tensor(ids), None).tolist() == [False, True, False]
