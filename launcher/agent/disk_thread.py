"""Runs work that waits for a disk in a thread, so that an event loop never waits for it."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_Value = TypeVar("_Value")


def start_in_thread(work: Callable[[], _Value]) -> "asyncio.Future[_Value]":
    """Calls a function in a thread of its own; returns the future of its result.

    Unlike with `asyncio.to_thread`, a call that never returns, because a file system hangs, does
    not keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Value] = loop.create_future()

    def run() -> None:
        try:
            settle, result = future.set_result, work()
        except Exception as error:
            settle, result = future.set_exception, error  # type: ignore[assignment]
        with suppress(RuntimeError):  # The loop has been closed.
            loop.call_soon_threadsafe(lambda: None if future.cancelled() else settle(result))

    threading.Thread(target=run, daemon=True).start()
    return future
