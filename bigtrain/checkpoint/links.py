"""Links whose target is gone, such as a run folder on a disk that is not mounted. No torch."""

from pathlib import Path

from bigtrain.checkpoint.folder import FolderError


def find_dangling_link(path: Path) -> Path | None:
    """A path, or the nearest folder above it, that is a link to nothing; None where none is."""
    return next((each for each in (path, *path.parents) if _is_dangling(each)), None)


def check_links(path: Path) -> None:
    """Checks that neither a path nor a folder above it is a link to nothing.

    Raises:
        FolderError: One is; the message names it and its target.
    """
    link = find_dangling_link(path)
    if link is not None:
        raise FolderError(
            f"{link}: a link to {link.readlink()}, which is not there; mount its disk, or mend or "
            "remove the link"
        )


def _is_dangling(path: Path) -> bool:
    try:
        return path.is_symlink() and not path.exists()
    except PermissionError:  # It is in a folder that is closed to this user, or its target is.
        return False
