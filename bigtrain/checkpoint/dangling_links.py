"""Links whose target is gone, such as a run folder on a disk that is not mounted. No torch."""

from pathlib import Path

from bigtrain.checkpoint.storage_folder import FolderError
from bigtrain.config.paths import find_dangling_link, render_dangling_link


def check_links(path: Path) -> None:
    """Checks that neither a path nor a folder above it is a link whose target is gone.

    Raises:
        FolderError: One is; the message names it and its target.
    """
    link = find_dangling_link(path)
    if link is not None:
        raise FolderError(render_dangling_link(link))
