"""Runs a function in n new ranks, forked from a server that has already made the slow imports.

Never use two layouts in one process: state that one leaves behind can hide an error of the next.
A new interpreter costs each rank 4 to 8 s of imports; a fork of the server costs milliseconds.
"""

import multiprocessing
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from launcher.ports import find_free_port

PRELOADED = ("tests.preload",)


class RankError(AssertionError):
    """At least one rank failed; the message holds every rank's traceback."""


def run_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120, **kwargs: Any
) -> list[Any]:
    """Calls ``function(*args, **kwargs)`` in each rank and returns what each returned.

    Args:
        function: Importable by name. It reads its rank from the environment, as under a launcher.
        world_size: Number of ranks.
        *args: Positional arguments of ``function``.
        timeout: Seconds after which all ranks are killed.
        **kwargs: Keyword arguments of ``function``.

    Raises:
        RankError: A rank raised an error, died, or did not end within ``timeout``.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    port = find_free_port()
    ranks = []
    for rank in range(world_size):
        ours, theirs = context.Pipe(duplex=False)
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        process = context.Process(
            target=_run_rank, args=(theirs, environment, str(Path.cwd()), function, args, kwargs)
        )
        process.start()
        theirs.close()
        ranks.append((process, ours))
    try:
        return _gather(ranks, timeout)
    finally:
        for process, connection in ranks:
            process.kill()
            process.join()
            connection.close()


def _gather(ranks: list[Any], timeout: float) -> list[Any]:
    deadline = time.monotonic() + timeout
    outcomes: dict[int, tuple[bool, Any]] = {}
    while len(outcomes) < len(ranks):
        waiting = {c: r for r, (_, c) in enumerate(ranks) if r not in outcomes}
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            hung = sorted(set(range(len(ranks))) - set(outcomes))
            raise RankError(_describe(outcomes) + f"\nranks {hung} did not end in {timeout} s")
        for connection in ready:
            outcomes[waiting[connection]] = _receive(connection)
        if any(not good for good, _ in outcomes.values()):
            # Other ranks may wait for this one for ever: give them time to report, then kill them.
            deadline = min(deadline, time.monotonic() + 5)
    if any(not good for good, _ in outcomes.values()):
        raise RankError(_describe(outcomes))
    return [outcomes[rank][1] for rank in range(len(ranks))]


def _receive(connection: Connection) -> tuple[bool, Any]:
    try:
        return connection.recv()
    except EOFError:
        return False, "died without reporting an error"


def _describe(outcomes: dict[int, tuple[bool, Any]]) -> str:
    failed = {rank: text for rank, (good, text) in sorted(outcomes.items()) if not good}
    return "\n".join(f"--- rank {rank}:\n{text}" for rank, text in failed.items())


def _run_rank(
    connection: Connection,
    environment: dict[str, str],
    folder: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    try:
        answer = (True, function(*args, **kwargs))
        pickle.dumps(answer)
    except BaseException:
        answer = (False, traceback.format_exc())
    connection.send(answer)
    connection.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # Exit without running the atexit handlers of the test process.
    os._exit(0 if answer[0] else 1)
