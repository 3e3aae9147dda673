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


def decode_runs(ids: Sequence[int]) -> str:
    """As `decode`, but bytes below 128 have tokens of their own, from 1000 on.

    A run of byte tokens that is not UTF-8 becomes nothing but replacement characters, as in the
    tokenizers library.
    """
    text, run = "", b""
    for each in [*ids, 1000]:
        if each < 256:
            run += bytes([each])
            continue
        try:
            text += run.decode("utf-8")
        except UnicodeDecodeError:
            text += "\ufffd" * len(run)
        text, run = text + chr(each - 1000), b""
    return text[:-1]


def test_bytes_are_shown_when_no_other_byte_can_change_them() -> None:
    parts: list[str] = []
    streamer = Streamer(decode_runs, parts.append, is_byte=lambda each: each < 256)
    streamer.put(torch.tensor([[1]]))
    ids = [1000 + ord("a"), ord("?"), 0xE0, 1000 + ord("b"), *"é".encode(), 1000 + ord("c"), 63]
    for each in ids:
        streamer.put(torch.tensor([each]))
    streamer.end()
    assert "".join(parts) == decode_runs(ids) == "a\ufffd\ufffdbéc?"
    assert parts == ["a", "\ufffd\ufffdb", "éc", "?"]


def test_stop_strings_look_at_the_new_text_of_each_row_only() -> None:
    criterion = StopStrings(["你\n"], decode, start=3)
    rows = ["a\n", "你\n", "你"]
    width = max(len(row.encode()) for row in rows)
    ids = [[*"你".encode(), *row.encode().ljust(width, b" ")] for row in rows]
    assert criterion(torch.tensor(ids), None).tolist() == [False, True, False]
