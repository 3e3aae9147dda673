"""Which run the checkpoints in ``checkpoint.dir`` belong to; two runs never share them. No torch.

By default checkpoints are in the run folder. With ``checkpoint.dir`` they are in a folder that has
the run's name, and two run folders may have the same name. So ``NAME.owner.json`` records the owner
by the id in the run folder's file ``run_id``, which is kept when the folder is renamed.
"""

import json
import logging
import secrets
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bigtrain.checkpoint.run_checkpoints import (
    absolute_place,
    check_checkpoints_are_its_own,
    checkpoints_of_run,
)
from bigtrain.checkpoint.step_folders import named_folders
from bigtrain.checkpoint.storage_folder import Folder, open_folder
from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.saved import load_run_of
from data_tools.files import write_file

log = logging.getLogger(__name__)
_ID_FILE = "run_id"


@dataclass(frozen=True, slots=True)
class Owner:
    """The run that checkpoints belong to."""

    run_id: str
    run_folder: str
    """Where the run folder was when an attempt last began; absolute."""
    host: str
    place: str
    """The folder of the checkpoints at that time; absolute."""


def check_owner(config: RunConfig, checkpoints: Folder) -> None:
    """Checks, without writing, that a run may use what is in its ``checkpoint.dir``.

    Args:
        config: The run.
        checkpoints: Its folder of checkpoints.

    Raises:
        ConfigError: The checkpoints there are another run's.
    """
    if config.checkpoint.dir is not None:
        _check(_read_owner(config, checkpoints), config, checkpoints)


def check_may_change(run_dir: Path) -> None:
    """Checks, before checkpoints of a run are removed or renamed, that they are its own.

    Raises:
        ConfigError: They are another run's, or the folder is a copy.
    """
    check_checkpoints_are_its_own(run_dir)
    check_owner(load_run_of(run_dir), checkpoints_of_run(run_dir))


def claim_checkpoints(config: RunConfig, checkpoints: Folder) -> None:
    """Makes a run the owner of its folder in ``checkpoint.dir``; the caller holds the run's lock.

    Args:
        config: The run.
        checkpoints: Its folder of checkpoints.

    Raises:
        ConfigError: The checkpoints there are another run's.
        OSError: The owner's file cannot be written.
    """
    if config.checkpoint.dir is None:
        return
    owner = _read_owner(config, checkpoints)
    _check(owner, config, checkpoints)
    here, place = config.run_dir.absolute(), absolute_place(checkpoints)
    run_id = _run_id(here)
    has_none = owner is None or owner.place != place
    if run_id is None or (has_none and _find_run(run_id, here, besides=here)):
        run_id = _make_run_id(here)  # A copy becomes a run of its own.
    now = Owner(run_id, run_folder=str(here), host=socket.gethostname(), place=place)
    if owner == now:
        return
    if (owner is None or owner.run_id != now.run_id) and named_folders(checkpoints):
        before = "had no owner" if owner is None else f"belonged to {_render(owner)}"
        log.warning("%s: these checkpoints %s; now they are this run's", checkpoints, before)
    root = open_folder(config.checkpoint.dir)
    root.make()
    root.write(_owner_file(checkpoints), (json.dumps(asdict(now), indent=1) + "\n").encode())
    # Another run may have claimed them at the same time; the last one that wrote keeps them.
    _check(_read_owner(config, checkpoints), config, checkpoints)


def _check(owner: Owner | None, config: RunConfig, checkpoints: Folder) -> None:
    ours, here = _run_id(config.run_dir), config.run_dir.absolute()
    if owner is None or owner.place != absolute_place(checkpoints):
        return  # No owner file, or the folder was copied here together with its owner file.
    there = Path(owner.run_folder)
    is_here = there == here or _is_same_folder(there, here)
    others = _find_run(owner.run_id, there, besides=here)
    if ours == owner.run_id:
        if is_here or not others:
            return  # It is the run, which may have been moved.
        what = f"{here} is a copy of that run, as is {others[0]}"
        if others[0] == there:
            what = f"{here} is a copy of that run"
    elif is_here and ours is None and not others and owner.host == socket.gethostname():
        return  # The run folder was removed and made again.
    else:
        what = f"{here} is another run"
        if others and others[0] != there:
            what += f" (that one is in {others[0]} now)"
    raise ConfigError(
        f"run {config.name}: the checkpoints in {owner.place} belong to {_render(owner)}, "
        f"and {what}; give this one another name or checkpoint.dir (checkpoint.load begins with "
        f"those), or remove {config.checkpoint.dir}/{_owner_file(checkpoints)} to take them over"
    )


def _render(owner: Owner) -> str:
    return f"{owner.run_folder} on {owner.host}"


def _is_same_folder(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _find_run(run_id: str, there: Path, *, besides: Path) -> list[Path]:
    """Folders that hold this run: where it was, and those beside it or beside ``besides``."""
    beside: list[Path] = []
    for parent in {there.parent, besides.parent}:
        with suppress(OSError):
            beside += sorted(parent.iterdir())
    return [
        folder
        for folder in dict.fromkeys([there, *beside])
        if folder != besides
        and _may_hold_run(folder, run_id, or_is_unreadable=folder == there)
        and not _is_same_folder(folder, besides)
    ]


def _may_hold_run(run_dir: Path, run_id: str, *, or_is_unreadable: bool) -> bool:
    """Whether a folder holds the run with this id, or cannot be read by this user."""
    try:
        return (run_dir / _ID_FILE).read_text(encoding="utf-8").strip() == run_id
    except PermissionError:
        return or_is_unreadable
    except (OSError, ValueError):
        return False


def _owner_file(checkpoints: Folder) -> str:
    return f"{checkpoints.name}.owner.json"


def _read_owner(config: RunConfig, checkpoints: Folder) -> Owner | None:
    assert config.checkpoint.dir is not None
    file = _owner_file(checkpoints)
    try:
        return Owner(**json.loads(open_folder(config.checkpoint.dir).read(file)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):  # After a power cut it may be cut off: the owner is unknown.
        log.warning("%s/%s cannot be read", config.checkpoint.dir, file)
        return None


def _run_id(run_dir: Path) -> str | None:
    try:
        return (run_dir / _ID_FILE).read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def _make_run_id(run_dir: Path) -> str:
    run_id = secrets.token_hex(8)
    write_file(run_dir / _ID_FILE, f"{run_id}\n".encode())
    return run_id
