"""Runs the tasks of a job that are not done yet, with one progress bar for all of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from data_tools.jobs.workers import WorkerPool, run_each
from data_tools.progress import show_progress


class Task(Protocol):
    """A part of a job that can run by itself."""

    @property
    def number(self) -> int:
        """Its place among the tasks of the job, from 0."""

    @property
    def bytes(self) -> int:
        """The size of its input, for the progress bar."""


AnyTask = TypeVar("AnyTask", bound=Task)
Result = TypeVar("Result")


def find_done(
    tasks: Sequence[AnyTask], load: Callable[[AnyTask], Result | None]
) -> tuple[dict[int, Result], list[AnyTask]]:
    """Finds which tasks are done.

    Args:
        tasks: The tasks.
        load: Reads what a task has made; None if it must run.

    Returns:
        What the tasks that are done have made, by their numbers; and the other tasks.
    """
    found = {task.number: load(task) for task in tasks}
    done = {number: result for number, result in found.items() if result is not None}
    return done, [task for task in tasks if task.number not in done]


def run_tasks(
    what: str,
    function: Callable[[AnyTask], Result],
    tasks: Sequence[AnyTask],
    *,
    pool: WorkerPool | None,
) -> dict[int, Result]:
    """Runs tasks in a pool of processes, or in this one, and shows the progress.

    Args:
        what: What the progress bar says, as "sharding".
        function: Runs one task; a function of a module or a partial of one.
        tasks: What to run.
        pool: Where to run them; None is this process.

    Returns:
        What each task has made, by its number, in the order in which they ended.
    """
    results: dict[int, Result] = {}
    with show_progress(what, sum(task.bytes for task in tasks)) as advance:
        for task, result in run_each(function, tasks, pool=pool):
            results[task.number] = result
            advance(task.bytes)
    return results


def in_order(tasks: Sequence[Task], *results: Mapping[int, Result]) -> list[Result]:
    """Joins results by number, in the order of the tasks."""
    joined = {number: result for some in results for number, result in some.items()}
    return [joined[task.number] for task in tasks]
