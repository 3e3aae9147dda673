"""The history of a run's attempts, as it is shown when the run is held."""

import pytest

from launcher.supervisor.describe import render_history
from launcher.supervisor.error_messages import looks_like_hardware, normalise_message
from launcher.supervisor.values import AttemptEnd, EndKind, StopCause


def test_each_attempt_is_one_line_with_what_happened_where_and_when() -> None:
    history = [
        AttemptEnd(EndKind.RANK_FAILED, 0, 41, 40, "OSError: no space left.", None, 3, ("n2",)),
        AttemptEnd(EndKind.NODE_LOST, 40, 55, 40, "", None, None, ("n3", "n4")),
        AttemptEnd(EndKind.STOPPED, 40, 60, 60, "", StopCause.TIME_LIMIT),
        AttemptEnd(EndKind.BAD_NODES, 60, 60, 60, "n7: gpus: 7 GPUs of 8", nodes=("n7",)),
        AttemptEnd(EndKind.DIVERGED, 60, 99, 80, "10 updates skipped", rewound=True),
    ]
    assert render_history(history) == [
        "attempt 1: rank 3 failed on n2 at step 41 (saved: 40): OSError: no space left",
        "attempt 2: n3, n4 no longer answers at step 55 (saved: 40)",
        "attempt 3: stopped by the time limit at step 60",
        "attempt 4: n7 failed a check: gpus: 7 GPUs of 8",
        "attempt 5: the loss diverged at step 99 (saved: 80), then rewound: 10 updates skipped",
    ]


def test_a_long_history_fits_on_one_screen() -> None:
    nodes = tuple(f"n{number}" for number in range(100))
    end = AttemptEnd(EndKind.NODE_LOST, 0, 41, 0, "x" * 1000, nodes=nodes)
    lines = render_history([end] * 300)
    assert len(lines) == 20
    assert lines[0] == "(281 earlier attempts)"
    assert lines[-1].startswith("attempt 300: n0, n1, n2, n3 and 96 more nodes")
    assert all(len(line) < 220 for line in lines)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("step 12: loss 3.25e+01", "step 1200: loss -7.5e-3"),
        ("open('/data/x/a.tar') failed", "open('/mnt/y.tar') failed"),
        ("[2026-01-02T03:04:05] rank 3", "[2027-11-12T13:14:15] rank 0"),
        ("connect to [10.0.0.7]:29500", "connect to [fe80::1]:1234"),
        ("at 0xdeadbeef", "at 0x7ffc12"),
        ("two\n words", "two words"),
    ],
)
def test_messages_are_equal_without_numbers_addresses_paths_and_times(one: str, other: str) -> None:
    assert normalise_message(one) == normalise_message(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("KeyError: 'loss'", "KeyError: 'norm'"), ("ValueError: x", "TypeError: x"), ("a/b", "c/d")],
)
def test_different_errors_stay_different(one: str, other: str) -> None:
    assert normalise_message(one) != normalise_message(other)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: uncorrectable ECC error encountered",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)",
        "killed by SIGBUS after 'step 41'",
        "NVRM: Xid (PCI:0000:1b:00): 79",
    ],
)
def test_errors_of_failing_hardware_are_recognised(message: str) -> None:
    assert looks_like_hardware(message)


@pytest.mark.parametrize(
    "message",
    [
        "torch.OutOfMemoryError: CUDA out of memory",
        "CUDA error: out of memory",
        "CUDA error: device-side assert triggered",
        "ValueError: record 3 is empty",
        "killed by SIGKILL, which most often means that memory ran out",
    ],
)
def test_errors_of_programs_do_not_look_like_hardware(message: str) -> None:
    assert not looks_like_hardware(message)
