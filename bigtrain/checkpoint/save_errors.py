"""What the errors of a save say: where, why, and what to do about it. No torch."""

import errno

from bigtrain.checkpoint.step_folders import final_name
from bigtrain.checkpoint.storage_folder import Folder

MAKE_ROOM = (
    "make room, or keep fewer checkpoints (checkpoint.keep_last, `bigtrain checkpoint prune`)"
)
_ANY_PLACE = "see that the place is there and writable, or set checkpoint.dir"
_REMEDIES = {
    errno.ENOSPC: MAKE_ROOM,
    errno.EDQUOT: MAKE_ROOM,
}


class SaveError(RuntimeError):
    """A checkpoint could not be written; the message is one line and says which and why."""


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
    """What went wrong, in one line, and what to do about it if we know."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, OSError):
        return text
    if error.strerror is not None:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return f"{text}; {_REMEDIES.get(error.errno or 0, _ANY_PLACE)}"
