"""Lists what every node of a job must be able to read and write, for the preflight of the job.

`launch` records the hashes of corpora and tokenizer where the run is submitted, so that the nodes
are compared with what the user saw. No torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigtrain.checkpoint.step_folders import named_folders
from bigtrain.checkpoint.storage_folder import DiskFolder, Folder
from bigtrain.config import RunConfig
from bigtrain.plan.parameters import count_parameters
from bigtrain.runs.resume_checks import open_checkpoints
from data_tools.errors import InputError
from data_tools.files import file_sha256, load_json, render_json
from data_tools.manifest import MANIFEST_NAME, Manifest, load_manifest
from data_tools.remote_files import is_url

DATA_FILES = "data-files.json"
"""The record in the run folder."""
LOG_BYTES = 256 << 20
"""Room for logs and metrics."""
BYTES_PER_PARAMETER = 12
"""A checkpoint holds each parameter and its two moments in fp32."""


def render_data_files(config: RunConfig) -> str:
    """The record of the run's corpora and tokenizer, with their hashes, for `DATA_FILES`.

    Raises:
        InputError: A manifest cannot be read.
        OSError: The tokenizer cannot be read.
    """
    return render_json(_find_data_files(config)).decode()


def node_check_arguments(
    config: RunConfig, *, config_file: Path, gpus_per_node: int
) -> dict[str, Any]:
    """The arguments of ``launcher.preflight.checks.run_checks``; values that JSON has.

    Corpora and checkpoints at URLs are left out: they are not on a file system that a node mounts.

    Args:
        config: The run's config, checked.
        config_file: The config of the job, which every rank reads.
        gpus_per_node: GPUs that each node must have.

    Raises:
        ConfigError: The run's checkpoints are in another place than its config says.
        InputError: Nothing is recorded, and a manifest cannot be read.
        OSError: Nothing is recorded, and the tokenizer cannot be read.
    """
    return {
        "config": str(config_file.absolute()),
        "gpus": gpus_per_node,
        "folders": _folders(config),
        **(_load_record(config.run_dir / DATA_FILES) or _find_data_files(config)),
    }


def checkpoint_bytes(config: RunConfig) -> int:
    """An estimate of the bytes of one checkpoint."""
    return BYTES_PER_PARAMETER * count_parameters(config.model).padded_total


def _load_record(file: Path) -> Mapping[str, Any] | None:
    try:
        values = load_json(file) if file.is_file() else None
    except InputError:
        return None
    return values if isinstance(values, dict) and {"files", "tars"} <= values.keys() else None


def _find_data_files(config: RunConfig) -> dict[str, Any]:
    names = (*config.data.training_corpora, *config.data.validation_corpora)
    corpora = [Path(name).absolute() for name in dict.fromkeys(names) if not is_url(name)]
    manifests = {folder: load_manifest(folder) for folder in corpora}
    return {
        "files": [
            *(_file(folder / MANIFEST_NAME, m.fingerprint) for folder, m in manifests.items()),
            *_tokenizers(config, manifests),
        ],
        "tars": [
            {"path": str(folder / manifest.shards[0].file), "bytes": manifest.shards[0].bytes}
            for folder, manifest in manifests.items()
            if manifest.shards
        ],
    }


def _folders(config: RunConfig) -> list[dict[str, Any]]:
    checkpoints = open_checkpoints(config)
    run = {"path": str(config.run_dir.absolute()), "bytes": LOG_BYTES}
    if not isinstance(checkpoints, DiskFolder):
        return [run]
    needed = LOG_BYTES + _num_new_checkpoints(config, checkpoints) * checkpoint_bytes(config)
    return [run, {"path": str(checkpoints.path.absolute()), "bytes": needed}]


def _num_new_checkpoints(config: RunConfig, checkpoints: Folder) -> int:
    """How many more checkpoints are kept than there are now; an old one is deleted after a save."""
    keep_last = config.checkpoint.keep_last
    if keep_last is None:
        return 1
    total = -(-config.train.steps // config.checkpoint.every)
    return max(1, min(keep_last + 1, total) - len(named_folders(checkpoints)))


def _tokenizers(config: RunConfig, manifests: dict[Path, Manifest]) -> list[dict[str, str]]:
    if config.data.tokenizer is not None:
        path = Path(config.data.tokenizer).absolute()
        return [_file(path, file_sha256(path))]
    return [
        _file(folder / manifest.tokenizer.file, manifest.tokenizer.sha256)
        for folder, manifest in manifests.items()
    ]


def _file(path: Path, sha256: str) -> dict[str, str]:
    return {"path": str(path), "sha256": sha256}
