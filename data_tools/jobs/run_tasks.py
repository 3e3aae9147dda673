"""Runs the tasks of a job that are not done yet, with one progress bar for all of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from data_tools.jobs.workers import WorkerPool, run_each
from data_tools.progress import show_progress


class Task(Protocol):
    """A part of a job that can run independently."""

    @property
    def number(self) -> int:
        """Its number among the tasks of the job, from 0."""

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
        load: Reads the result of a task; returns None if the task must run.

    Returns:
        The results of the tasks that are done, by their numbers; and the other tasks.
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
        what: The label of the progress bar, such as "sharding".
        function: Runs one task; a module-level function or a partial of one.
        tasks: The tasks to run.
        pool: The pool to run them in; None: this process.

    Returns:
        The result of each task by its number, in the order in which the tasks ended.
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
