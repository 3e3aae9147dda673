"""Writes lists of node names and of numbers in SLURM's short form: n[1-3,7]. Pure."""

import re
from collections.abc import Iterable

_NUMBERED = re.compile(r"^(.*?)(\d+)$")


def compress_names(names: Iterable[str]) -> str:
    """Renders node names in SLURM's form: ``n1 n2 n3 n7 login`` become ``n[1-3,7],login``."""
    numbers: dict[tuple[str, int], list[int]] = {}
    order: list[tuple[str, int] | str] = []
    for name in dict.fromkeys(names):
        match = _NUMBERED.match(name)
        if match is None:
            order.append(name)
            continue
        # Names with leading zeros keep their width: n001 is not n1.
        key = match[1], len(match[2]) if match[2].startswith("0") else 0
        if key not in numbers:
            order.append(key)
        numbers.setdefault(key, []).append(int(match[2]))
    return ",".join(
        each if isinstance(each, str) else _render(each, sorted(numbers[each])) for each in order
    )


def compress_numbers(numbers: Iterable[int]) -> str:
    """Renders numbers as ranges, as SLURM's ``--array`` takes them: ``0-3,7``."""
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in _ranges(sorted(numbers)))


def _render(key: tuple[str, int], numbers: list[int]) -> str:
    prefix, width = key
    if len(numbers) == 1:
        return f"{prefix}{numbers[0]:0{width}}"
    parts = (
        f"{a:0{width}}-{b:0{width}}" if a != b else f"{a:0{width}}" for a, b in _ranges(numbers)
    )
    return f"{prefix}[{','.join(parts)}]"


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = ranges[-1][0], number
        else:
            ranges.append((number, number))
    return ranges
