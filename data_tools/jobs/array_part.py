"""Divides the tasks of a job into parts, one for each process: part I/N is every N-th task."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_tools.errors import InputError
from data_tools.jobs.run_tasks import AnyTask


@dataclass(frozen=True, slots=True)
class ArrayPart:
    """Some tasks of a job: those whose number modulo `count` is `index`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(
                f"--task {self.index}/{self.count} must be from 0/{self.count} to "
                f"{self.count - 1}/{self.count}: the first part is 0"
            )

    def choose(self, tasks: Sequence[AnyTask]) -> list[AnyTask]:
        """The tasks of this part, in order."""
        return [task for task in tasks if task.number % self.count == self.index]


def parse_part(text: str | None) -> ArrayPart | None:
    """Reads the option `--task`.

    Raises:
        InputError: It is not of the form I/N.
    """
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise InputError(f"--task {text!r} must be I/N, such as 0/4: part 0 of 4")
    return ArrayPart(int(index), int(count))


def describe_missing(numbers: Sequence[int], count: int, *, shown: int = 8) -> tuple[str, str]:
    """Names tasks, and the parts that they belong to, each in one line of at most `shown` names.

    Args:
        numbers: The numbers of the tasks, ascending.
        count: The number of parts.
        shown: How many names are shown.

    Returns:
        Such as ("000001, 000005", "1/4").
    """
    parts = [f"{index}/{count}" for index in sorted({number % count for number in numbers})]
    return _some_of([f"{number:06d}" for number in numbers], shown), _some_of(parts, shown)


def _some_of(names: Sequence[str], shown: int) -> str:
    left = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {left} more" if left > 0 else "")
