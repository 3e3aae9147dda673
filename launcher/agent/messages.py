"""The messages between the supervisor of a job and the agents of its nodes: JSON lines over TCP.

The first line of a connection is a `Hello` with the job's token; a connection without it is closed.
Each line is one message: ``{"v": 1, "type": "Hello", …fields…}``. Every field is checked when a
line is read, because anything may connect to an open port.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from launcher.failures import RankEnd

VERSION = 2
"""Version of the messages; both sides must have the same."""
MAX_LINE_BYTES = 1 << 20
"""Longest line that is read."""
MAX_TEXT = 200_000
"""Longest text, in characters, that a message may carry, such as the stacks of one rank."""


class MessageError(ValueError):
    """A line is not a message of this version."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of an agent: which node it is on, and the facts of its machine."""

    token: str
    node: str  # the scheduler's name of the node
    task: int  # number of the agent among those of its node
    host: str  # host name
    interfaces: dict[str, str]  # network interface → its address
    pid: int
    cores: tuple[int, ...]  # numbers of the cores that it may use
    time: float  # its clock, in seconds since the epoch
    python: str
    packages: dict[str, str]  # package → version


@dataclass(frozen=True, slots=True)
class RankBeat:
    """What an agent knows about a rank that runs."""

    rank: int
    beats: int  # heartbeats received so far; a higher number than before means progress
    phase: str
    step: int
    seconds_since: float  # since the newest heartbeat
    seconds: float | None  # duration of the newest step


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent by every agent once a second, and at once when a rank enters another phase."""

    generation: int  # 0 if no ranks were started
    ranks: tuple[RankBeat, ...]


@dataclass(frozen=True, slots=True)
class RankEnded:
    """The process of a rank ended."""

    generation: int
    end: RankEnd


@dataclass(frozen=True, slots=True)
class RanksEnded:
    """All ranks of the agent ended, and no process of theirs is left."""

    generation: int


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The ranks could not be started."""

    generation: int
    message: str


@dataclass(frozen=True, slots=True)
class RankStacks:
    """The stacks of a rank that hangs."""

    generation: int
    rank: int
    pid: int  # 0 if it has ended
    state: str  # of the process, as in /proc: R, S, D, T, …; empty if it has ended
    text: str  # the stacks of its threads, or why there are none
    collectives: str = ""  # its last collectives; empty if it did not write them


@dataclass(frozen=True, slots=True)
class Port:
    """Answers `FindPort`: a port of the agent's node that is free now."""

    request: int
    port: int


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Answers `Check`: the result of a check of the node."""

    request: int
    result: dict[str, Any]
    error: str = ""  # why there is no result


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a `Ping`."""

    sent: float  # as in the ping
    time: float  # the agent's clock, in seconds since the epoch


@dataclass(frozen=True, slots=True)
class SignalReceived:
    """The scheduler sent a signal to the agent."""

    name: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for the agent's clock; the time until the answer bounds the error of the measurement."""

    sent: float  # the supervisor's monotonic clock, in seconds


@dataclass(frozen=True, slots=True)
class FindPort:
    """Asks for a free port of the agent's node."""

    request: int


@dataclass(frozen=True, slots=True)
class Start:
    """Starts ranks. Each gets the agent's environment, with its entry of `environments` on top.

    But if the agent's environment has OMP_NUM_THREADS, that value is kept.
    """

    generation: int
    command: tuple[str, ...]
    environments: tuple[dict[str, str], ...]  # of each rank of this agent
    log_dir: str
    torchrun: tuple[str, ...] = ()  # options of torchrun; empty if the agent starts the ranks


@dataclass(frozen=True, slots=True)
class Signal:
    """Sends a signal to the ranks of the agent: SIGUSR2, SIGTERM or SIGKILL."""

    generation: int
    name: str


@dataclass(frozen=True, slots=True)
class DumpStacks:
    """Asks for the stacks of the agent's ranks."""

    generation: int


@dataclass(frozen=True, slots=True)
class Check:
    """Asks for a check of the node."""

    request: int
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """Ends the agent, which first kills the ranks that still run."""


Message = (
    Hello
    | Heartbeat
    | RankEnded
    | RanksEnded
    | StartFailed
    | RankStacks
    | Port
    | CheckResult
    | SignalReceived
    | Ping
    | Pong
    | FindPort
    | Start
    | Signal
    | DumpStacks
    | Check
    | End
)
_PLAIN = (str, int, bool)
_FROM_TEXT = (Path,)
_TYPES: dict[str, type] = {each.__name__: each for each in get_args(Message)}


def encode_message(message: Message) -> bytes:
    """Renders a message as one line."""
    fields = {"v": VERSION, "type": type(message).__name__, **dataclasses.asdict(message)}
    return json.dumps(fields, default=str, separators=(",", ":")).encode() + b"\n"


def decode_message(line: bytes) -> Message:
    """Reads a line.

    Raises:
        MessageError: It is not a message, or of another version.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise MessageError("not a line of JSON") from None
    if not isinstance(fields, dict):
        raise MessageError("not a JSON object")
    if (version := fields.pop("v", None)) != VERSION:
        raise MessageError(
            f"messages of version {version!r}, and not {VERSION}: supervisor and agents need the "
            "same version of bigtrain"
        )
    name = fields.pop("type", None)
    found = _TYPES.get(name) if isinstance(name, str) else None
    if found is None:
        raise MessageError(f"there is no message of type {name!r}")
    return typing.cast(Message, _read(found, fields, found.__name__))


def shorten(text: str, limit: int = MAX_TEXT) -> str:
    """Keeps the end of a text, at most `limit` characters: the newest lines of a traceback."""
    return text if len(text) <= limit else f"…{text[1 - limit :]}"


@cache
def _fields(cls: type) -> dict[str, tuple[Any, bool]]:
    hints = typing.get_type_hints(cls)
    return {
        field.name: (hints[field.name], field.default is dataclasses.MISSING)
        for field in dataclasses.fields(cls)
    }


def _read(expected: Any, value: Any, where: str) -> Any:
    """Makes a value of the expected type from JSON."""
    origin, args = get_origin(expected), get_args(expected)
    if expected is Any:
        return value
    if origin in (types.UnionType, Union):
        if value is None and type(None) in args:
            return None
        (inner,) = (each for each in args if each is not type(None))
        return _read(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(args[0], each, where) for each in value)
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {str(key): _read(args[1], each, where) for key, each in value.items()}
    if dataclasses.is_dataclass(expected) and isinstance(value, dict):
        return _read_dataclass(typing.cast(type, expected), value, where)
    if expected is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(expected, type) and issubclass(expected, _PLAIN) and type(value) is expected:
        return value
    if expected in _FROM_TEXT and isinstance(value, str):
        return expected(value)
    raise MessageError(f"{where}: {str(value)[:80]!r} is not of the expected type")


def _read_dataclass(cls: type, value: dict[str, Any], where: str) -> Any:
    fields = _fields(cls)
    unknown = value.keys() - fields.keys()
    missing = {name for name, (_, needed) in fields.items() if needed} - value.keys()
    if unknown or missing:
        raise MessageError(f"{where}: unknown fields {sorted(unknown)}, missing {sorted(missing)}")
    return cls(**{n: _read(fields[n][0], each, f"{where}.{n}") for n, each in value.items()})
