"""Ignores signals in this process and in all programs that it starts. Works only on Linux.

SLURM sends SIGTERM to every process of a job's steps. A program inherits that a signal is ignored,
but wandb's service, written in Go, installs handlers of its own and ends at once, before the last
steps have reached it. So the kernel is told to skip the system call that installs a handler
(a seccomp filter, ``Documentation/userspace-api/seccomp_filter.rst`` of Linux).
"""

import ctypes
import platform
import signal
from collections.abc import Collection, Iterator
from struct import calcsize, pack

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2  # <linux/prctl.h>
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD | BPF_W | BPF_ABS; BPF_JMP | BPF_JEQ; BPF_RET
_ALLOW, _SKIP = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with errno 0
_FORMAT = "=HBBI"
_SYSTEM_CALLS = {"x86_64": (0xC000003E, 13), "aarch64": (0xC00000B7, 134)}
"""Machine → its number in <linux/audit.h>, and that of rt_sigaction."""
# Offsets in struct seccomp_data of what is checked.
_NUMBER, _MACHINE, _SIGNAL, _ACTION = 0, 4, 16, 24


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def ignore_signals(numbers: Collection[signal.Signals]) -> None:
    """Ignores signals from now on. Call it in the main thread, before there are others.

    Raises:
        OSError: Only this process ignores them: the kernel has no such filters, or the machine is
            not known here. A program that it starts may still handle them.
    """
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    machine = platform.machine()
    if machine not in _SYSTEM_CALLS:
        raise OSError(f"signals of {machine} cannot be filtered")
    code = b"".join(_render_filter(*_SYSTEM_CALLS[machine], numbers))
    program = _Program(len(code) // calcsize(_FORMAT), code)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    zero = ctypes.c_ulong(0)
    if prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) or prctl(
        _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program), zero, zero
    ):
        raise OSError(ctypes.get_errno(), "signals cannot be filtered (prctl)")


def _render_filter(
    machine: int, sigaction: int, numbers: Collection[signal.Signals]
) -> Iterator[bytes]:
    """The instructions of the filter: code, how many to jump over if true and if false, value."""
    checks = [(_MACHINE, machine), (_NUMBER, sigaction)]
    allow = 2 * len(checks) + len(numbers) + 6  # The position of the last instruction.
    for position, (offset, value) in enumerate(checks):
        yield pack(_FORMAT, _LOAD, 0, 0, offset)
        yield pack(_FORMAT, _EQUAL, 0, allow - (2 * position + 2), value)
    yield pack(_FORMAT, _LOAD, 0, 0, _SIGNAL)
    for left, number in zip(reversed(range(len(numbers))), numbers, strict=True):
        yield pack(_FORMAT, _EQUAL, left, 0 if left else 5, number)
    # A null pointer as the new action only asks for the present one. Its two halves:
    yield pack(_FORMAT, _LOAD, 0, 0, _ACTION)
    yield pack(_FORMAT, _EQUAL, 0, 2, 0)
    yield pack(_FORMAT, _LOAD, 0, 0, _ACTION + 4)
    yield pack(_FORMAT, _EQUAL, 1, 0, 0)
    yield pack(_FORMAT, _RETURN, 0, 0, _SKIP)
    yield pack(_FORMAT, _RETURN, 0, 0, _ALLOW)
