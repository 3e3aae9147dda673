"""The lock of a job's output folder, and removal of temporary files of killed processes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_tools.errors import InputError
from data_tools.files import remove_parts
from data_tools.locks import try_lock

LOCK_NAME = ".lock"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Makes this process the only one that writes in `folder`, until the block ends.

    Raises:
        InputError: Another process is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("w") as lock:
        if not try_lock(lock):
            raise InputError(
                f"another process is writing to {folder}: wait for it, or write to another folder"
            )
        yield


@contextmanager
def removing_parts(places: Sequence[tuple[Path, str]]) -> Iterator[None]:
    """Removes temporary files of killed processes, now and again if the block fails.

    Args:
        places: Pairs of a folder and the beginning of the names of the files written there.
    """
    _remove(places)
    try:
        yield
    except BaseException:
        _remove(places)  # The workers were killed too.
        raise


def _remove(places: Sequence[tuple[Path, str]]) -> None:
    for folder, prefix in places:
        remove_parts(folder, prefix=prefix)
