"""Checks that the disk has room for a checkpoint. No torch."""

from bigtrain.checkpoint.save_errors import MAKE_ROOM, save_error
from bigtrain.checkpoint.storage_folder import Folder

_BYTES_WITHOUT_TENSORS = 2**20
"""Room for the files that hold no tensors."""


def check_room(wanted: Folder, *, parent: Folder, tensor_bytes: int) -> None:
    """Checks that a checkpoint fits on the disk.

    Args:
        wanted: Where it will be written.
        parent: The folder of checkpoints, which exists.
        tensor_bytes: Bytes of its tensors.

    Raises:
        SaveError: It does not fit.
    """
    free, needed = parent.free_bytes(), tensor_bytes + tensor_bytes // 50 + _BYTES_WITHOUT_TENSORS
    if free is not None and free < needed:
        raise save_error(
            wanted,
            f"it needs {needed / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; {MAKE_ROOM}",
        )
