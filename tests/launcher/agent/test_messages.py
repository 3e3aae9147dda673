"""Messages of agents and supervisor are read back as written; other lines are refused."""

import json
from pathlib import Path

import pytest

from bigtrain.config.rewind_plan import RewindPlan
from launcher.agent.messages import (
    CheckResult,
    End,
    Heartbeat,
    Message,
    MessageError,
    RankBeat,
    RankEnded,
    Start,
    decode_message,
    encode_message,
    shorten,
)
from launcher.failures import ErrorReport, RankEnd

REPORT = ErrorReport("ValueError: x", 1, 2.5, "Traceback…", RewindPlan(120, 129, 100))


@pytest.mark.parametrize(
    "message",
    [
        End(),
        Heartbeat(3, (RankBeat(1, 7, "train", 41, 0.25, 0.5), RankBeat(2, 0, "load", 0, 9, None))),
        RankEnded(1, RankEnd(1, -9, 1.5, False, REPORT, "last line", Path("/logs/rank-1.log"))),
        RankEnded(1, RankEnd(0, 0, 1.5, True, None, None, None)),
        Start(2, ("python", "a b.py"), ({"RANK": "0"}, {"RANK": "1"}), "/run/logs"),
        CheckResult(5, {"disk": {"free": 1.5, "ok": True}, "list": [1, None]}),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_is_read_back_as_it_was_written(message: Message) -> None:
    line = encode_message(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert decode_message(line) == message


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"GET / HTTP/1.1\r\n", "not a line of JSON"),
        (b"[" * 100_000, "not a line of JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"v": 1, "type": "End"}', "version 1"),
        (b'{"v": 2, "type": "Exec"}', "no message of type 'Exec'"),
        (b'{"v": 2, "type": ["End"]}', "no message of type"),
        (b'{"v": 2, "type": "End", "more": 1}', "unknown fields"),
        (b'{"v": 2, "type": "Signal", "name": "SIGTERM"}', "missing"),
        (b'{"v": 2, "type": "Signal", "generation": true, "name": "SIGTERM"}', "Signal.generation"),
        (b'{"v": 2, "type": "Signal", "generation": 1, "name": 15}', "Signal.name"),
    ],
)
def test_a_line_that_is_not_a_message_is_refused_with_the_reason(line: bytes, problem: str) -> None:
    with pytest.raises(MessageError, match=problem):
        decode_message(line)


def test_a_nested_field_of_the_wrong_type_is_named() -> None:
    fields = json.loads(encode_message(Heartbeat(1, (RankBeat(1, 7, "train", 41, 0.25, 0.5),))))
    fields["ranks"][0]["step"] = "41"
    with pytest.raises(MessageError, match=r"Heartbeat\.ranks\.step"):
        decode_message(json.dumps(fields).encode())


def test_a_long_text_keeps_its_end() -> None:
    assert shorten("abcdef", 4) == "…def" and shorten("abcd", 4) == "abcd"
