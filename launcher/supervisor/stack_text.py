"""Reads the stacks that `faulthandler` writes, and finds what a rank waits for.

A blocking call of torch.distributed ends in C, so the innermost Python frame is that of the
collective. The wait for an asynchronous collective, or for the GPU, has no frame of its own; the
source line of the innermost frame shows it.
"""

import linecache
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)$')
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x")
_COLLECTIVES = (
    "torch/distributed/distributed_c10d.py",
    "torch/distributed/rendezvous.py",
    "torch/distributed/_functional_collectives.py",
)
_PIPELINE = "megatron/core/pipeline_parallel/p2p_communication.py"
_AROUND = (
    *("torch/distributed/", "torch/overrides.py", "deepspeed/comm/", "deepspeed/utils/"),
    "contextlib.py",
)
"""Files of frames between a collective and the code that calls it."""
_OVERRIDE = "__torch_function__"
"""The function of such a frame, in any file, if a mode intercepts the calls of torch."""
_BACKWARD = "torch/autograd/graph.py"
_OWN = ("bigtrain/", "megatron/")
_BESIDE = ("launcher/", "data_tools/", "tests/")  # in a checkout that is called bigtrain
_PENDING = re.compile(r"\.wait\(")
_DEVICE = re.compile(r"\.(?:item|tolist|cpu)\(|synchronize\(")

SourceLine = Callable[[str, int], str]


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack."""

    file: str
    """Path from the package on, such as ``bigtrain/train/loop.py``."""
    line: int
    function: str
    path: str
    """The whole path."""

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


@dataclass(frozen=True, slots=True)
class StackLocation:
    """The call in which a rank is, from its stacks."""

    waits_in: str
    """The collective, such as all_reduce; empty if the rank does not wait for other ranks."""
    caller: str
    """The function that called the collective, or the innermost function, with file and line."""
    own_caller: str
    """The nearest function of bigtrain or megatron-core, if that is another one; else empty."""

    def __str__(self) -> str:
        text = f"{self.waits_in}, called by {self.caller}" if self.waits_in else f"in {self.caller}"
        return text + (f", from {self.own_caller}" if self.own_caller else "")


def find_location(text: str, source_line: SourceLine = linecache.getline) -> StackLocation | None:
    """Finds the call in which a rank is.

    Args:
        text: What `faulthandler` wrote for all threads, once.
        source_line: Returns a line of a source file; empty if there is none.

    Returns:
        None if the text has no stack, such as the reason why there is none.
    """
    threads = parse_threads(text)
    if not threads:
        return None
    main = _main_thread(threads)
    location = _locate(main, source_line)
    if not location.waits_in and main[0].file == _BACKWARD:
        # On a GPU a thread of autograd runs the hooks of the backward pass, with their collectives.
        others = (_locate(thread, source_line) for thread in threads if thread is not main)
        return next((other for other in others if other.waits_in), location)
    return location


def parse_threads(text: str) -> list[list[Frame]]:
    """The frames of each thread, innermost first; threads without Python frames are left out."""
    threads: list[list[Frame]] = []
    for line in text.splitlines():
        if _THREAD.match(line):
            threads.append([])
        elif threads and (found := _FRAME.match(line)):
            path = found["file"]
            threads[-1].append(
                Frame(_shorten_path(path), int(found["line"]), found["function"], path)
            )
    return [frames for frames in threads if frames]


def main_stack(text: str) -> list[str]:
    """The lines of the main thread's stack, innermost frame first; empty if there is none."""
    threads = parse_threads(text)
    return [str(frame) for frame in _main_thread(threads)] if threads else []


def _main_thread(threads: Sequence[list[Frame]]) -> list[Frame]:
    begins = [frames for frames in threads if frames[-1].function.startswith("_run_module_as_main")]
    begins += [frames for frames in threads if frames[-1].function == "<module>"]
    return begins[0] if begins else threads[-1]  # faulthandler writes the oldest thread last.


def _locate(frames: Sequence[Frame], source_line: SourceLine) -> StackLocation:
    name, rest = _split_collective(frames)
    if not name:
        line = source_line(frames[0].path, frames[0].line)
        if _PENDING.search(line):
            name = "a pending collective"
        elif _DEVICE.search(line):
            name = "the device"
        rest = _without_torch(frames) if name else list(frames)
    if rest and rest[0].file == _PIPELINE:
        name, rest = _split_pipeline(rest)
    caller = rest[0] if rest else frames[0]
    own = next((frame for frame in rest if frame.file.startswith(_OWN)), caller)
    return StackLocation(name, str(caller), "" if own is caller else str(own))


def _without_torch(frames: Sequence[Frame]) -> list[Frame]:
    first = next((n for n, frame in enumerate(frames) if not frame.file.startswith("torch/")), 0)
    return list(frames[first:])


def _split_collective(frames: Sequence[Frame]) -> tuple[str, list[Frame]]:
    """The collective in which the innermost frames are, and the frames of its callers."""
    name, rest = "", list(frames)
    while len(rest) > 1 and (rest[0].file.startswith(_AROUND) or rest[0].function == _OVERRIDE):
        if rest[0].file in _COLLECTIVES and rest[0].function != "wrapper":
            name = rest[0].function
        del rest[0]
    return (name, rest) if name else ("", list(frames))


def _split_pipeline(frames: Sequence[Frame]) -> tuple[str, list[Frame]]:
    """The exchange between stages, such as recv_forward, and the frames of its callers."""
    inside = next((n for n, frame in enumerate(frames) if frame.file != _PIPELINE), len(frames))
    callers = [f for f in frames[inside:] if f.function != "wrapper"]
    return frames[inside - 1].function, callers


def _shorten_path(path: str) -> str:
    if "site-packages/" in path:
        return path.rpartition("site-packages/")[2]
    inside = path.rpartition("/bigtrain/")[2]
    if inside != path and not inside.startswith(_BESIDE):
        return f"bigtrain/{inside}"
    return "/".join(PurePath(path).parts[-2:]) if "/lib/python" not in path else PurePath(path).name
