"""Makes the error messages of saves: where, why, and the remedy. No torch."""

import errno

from bigtrain.checkpoint.step_folders import final_name
from bigtrain.checkpoint.storage_folder import Folder

MAKE_ROOM = (
    "make room, or keep fewer checkpoints (checkpoint.keep_last, `bigtrain checkpoint prune`)"
)
_DEFAULT_REMEDY = "check that the folder exists and is writable, or set checkpoint.dir"
_REMEDIES = {
    errno.ENOSPC: MAKE_ROOM,
    errno.EDQUOT: MAKE_ROOM,
}


class SaveError(RuntimeError):
    """A checkpoint could not be written; the message is one line with its path and the cause."""


def save_error(folder: Folder, cause: BaseException | str) -> SaveError:
    """The error of a save.

    Args:
        folder: Where it was written; the message has the name of the checkpoint.
        cause: What went wrong; a ``SaveError`` is returned as it is.
    """
    if isinstance(cause, SaveError):
        return cause
    where = str(folder).removesuffix(folder.name) + final_name(folder)
    return SaveError(f"{where}: not saved: {cause if isinstance(cause, str) else explain(cause)}")


def explain(error: BaseException) -> str:
    """What went wrong, and the remedy where there is one, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, OSError):
        return text
    if error.strerror is not None:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return f"{text}; {_REMEDIES.get(error.errno or 0, _DEFAULT_REMEDY)}"
