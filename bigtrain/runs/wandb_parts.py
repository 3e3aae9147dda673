"""Finds the offline wandb parts of a run folder that are not uploaded yet. Changes nothing."""

from dataclasses import dataclass
from pathlib import Path

from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.run_lock import RunBusyError, check_not_locked
from bigtrain.runs.wandb_id import read_wandb_id
from bigtrain.track.wandb_sync import OfflinePart, UploadError, find_offline_parts


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """The parts to upload."""

    run_id: str
    """The run's wandb id."""
    parts: list[OfflinePart]
    """Oldest first."""
    remarks: list[str]
    """Lines for the user about parts that are not uploaded."""


def parts_to_upload(run_dir: Path) -> UploadPlan:
    """Finds the parts that were not uploaded yet.

    While the run trains, its newest part is left out: it would be marked as uploaded before it is
    complete.

    Raises:
        UploadError: It is not a run folder, or it has no wandb id.
    """
    folder = RunFolder(run_dir)
    if (problem := folder.explain_no_run()) is not None:
        raise UploadError(problem)
    parts = find_offline_parts(folder.wandb)
    if not parts:
        remark = f"{run_dir}: wandb recorded nothing offline; there is nothing to upload"
        return UploadPlan("", [], [remark])
    run_id = read_wandb_id(run_dir)
    if run_id is None:
        raise UploadError(f"{run_dir}: it has no file wandb_id, which names its wandb run")
    remarks = []
    if _is_training(run_dir) and not parts[-1].is_synced:
        remarks.append(f"the run is training: {parts[-1].folder.name} is left for later")
        parts = parts[:-1]
    missing = [part for part in parts if not part.is_synced]
    if len(missing) < len(parts):
        remarks.append(f"{len(parts) - len(missing)} of {len(parts)} were uploaded before")
    return UploadPlan(run_id, missing, remarks)


def _is_training(run_dir: Path) -> bool:
    try:
        check_not_locked(run_dir)
    except RunBusyError:
        return True
    return False
