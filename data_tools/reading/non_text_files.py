"""Recognizes files in a folder that bigtrain or Hugging Face libraries wrote and that are not text.

They are recognized by their content, because a user's own `manifest.json` may be text.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data_tools.reading.file_formats import format_by_name
from data_tools.reading.webdataset_tars import is_token_tar

OURS = "written by bigtrain"
OF_DATASETS = "kept by Hugging Face datasets"
OF_MODELS = "of a Hugging Face model"

_HEAD_BYTES = 1024
_MOST_BYTES = 64 << 20  # The size of a manifest of several hundred thousand tars.
_RECORD_NAME = re.compile(r"report\.json|manifest\.json|job\.json|left_out\.json|.+\.index\.json")
_PART_NAME = re.compile(r"part-\d{6}\.jsonl\.zst")
_MARKER_NAME = re.compile(r"\d{6}(\.scan)?\.json")
_OF_A_JOB = ("tasks/", "train/", "validation/")
_OF_A_RUN = ("config.yaml", "attempts.jsonl")
_OF_A_MODEL = {
    "config.json": "model_type",
    "generation_config.json": "transformers_version",
    "model.safetensors.index.json": "weight_map",
    "special_tokens_map.json": "",
    "tokenizer.json": "added_tokens",
    "tokenizer_config.json": "tokenizer_class",
}
"""The files of an exported model, each with a key that it has."""
_OF_DATASETS = ("dataset_info.json", "state.json", "dataset_dict.json")

ReadHead = Callable[[str, int], bytes]
"""Reads up to the given number of bytes of a file; returns none if the file cannot be read."""


def find_records(paths: Iterable[str], read: ReadHead) -> dict[str, str]:
    """Finds the files of a folder that bigtrain or Hugging Face libraries wrote.

    Args:
        paths: All files, relative to the folder, with slashes.
        read: Reads the first bytes of a file.

    Returns:
        The reason why a file is not text, by the name of the file.
    """
    folders: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        folder, slash, file = path.rpartition("/")
        folders[folder + slash].add(file)
    ours = tuple(path for folder in folders for path in _folders_of_bigtrain(folder, folders, read))
    found: dict[str, str] = {}
    for folder, files in folders.items():
        if ours and folder.startswith(ours):
            found.update((folder + file, OURS) for file in files)
            continue
        for reason, names in (
            (OURS, (file for file in files if _is_ours(folder, file, files, read))),
            (OF_DATASETS, _files_of_datasets(folder, files, read)),
            (OF_MODELS, _files_of_a_model(folder, files, read)),
        ):
            found.update((folder + name, reason) for name in names)
    return found | _parts_beside_text(folders, found, read)


def _parts_beside_text(
    folders: dict[str, set[str]], found: dict[str, str], read: ReadHead
) -> dict[str, str]:
    """Finds the parts that `data clean` wrote, if there is other text outside of them.

    The other text most likely was the input of the cleaning, so its documents would be read twice.
    If there is no other text, the parts themselves are the text, and nothing is found.
    """
    parts, has_other_text = {}, False
    for folder, files in folders.items():
        report = _load(folder + "report.json", read) if "report.json" in files else None
        is_output = bool(folder) and _schema(report).startswith("bigtrain-clean/")
        for file in files:
            if is_output and _PART_NAME.fullmatch(file):
                parts[folder + file] = OURS
            elif format_by_name(file) is not None and folder + file not in found:
                has_other_text = True
    return parts if has_other_text else {}


def _folders_of_bigtrain(
    folder: str, folders: dict[str, set[str]], read: ReadHead
) -> Iterator[str]:
    """Finds folders in which all files were written by bigtrain."""
    files = folders[folder]
    for file in ("manifest.json", "COMMIT.json", "state.json"):
        if file in files and _schema(_load(folder + file, read)).startswith(
            ("bigtrain-tokens/", "bigtrain-samples/", "bigtrain-labels/", "bigtrain-checkpoint/")
        ):
            yield folder
    if all(file in files for file in _OF_A_RUN) and _is_attempt(read(folder + _OF_A_RUN[1], 1024)):
        yield folder
    if folder.endswith("tasks/") and "job.json" in files:
        job = folder.removesuffix("tasks/")
        if (not job or job.endswith("/")) and _is_job(_load(folder + "job.json", read)):
            yield from (job + part for part in _OF_A_JOB)


def _is_ours(folder: str, file: str, files: set[str], read: ReadHead) -> bool:
    if file.endswith(".tar"):
        return is_token_tar(read(folder + file, 512))
    is_note = file.endswith(".json") and file.removesuffix(".json") in files
    if not (is_note or _RECORD_NAME.fullmatch(file) or _MARKER_NAME.fullmatch(file)):
        return False
    value = _load(folder + file, read)
    return _schema(value).startswith("bigtrain-") or _is_marker(value) or _is_job(value)


def _files_of_datasets(folder: str, files: set[str], read: ReadHead) -> Iterator[str]:
    there = [file for file in _OF_DATASETS if file in files]
    is_saved = any(file.endswith(".arrow") for file in files)
    for file in there:
        if is_saved or (file == "dataset_dict.json" and _has(_load(folder + file, read), "splits")):
            yield file
    if there and is_saved:
        yield from (file for file in files if file.startswith("cache-") and file.endswith(".arrow"))


def _files_of_a_model(folder: str, files: set[str], read: ReadHead) -> Iterator[str]:
    has_tokenizer = bool(files & {"tokenizer.json", "tokenizer_config.json"})
    for file in files & _OF_A_MODEL.keys():
        key = _OF_A_MODEL[file]
        if _has(_load(folder + file, read), key) if key else has_tokenizer:
            yield file


def _load(name: str, read: ReadHead) -> Any:
    # bigtrain writes JSON objects with sorted keys, over several lines.
    if not read(name, _HEAD_BYTES).startswith(b"{"):
        return None
    try:
        return json.loads(read(name, _MOST_BYTES))
    except (ValueError, RecursionError):
        return None


def _schema(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    schemas = (value.get(key) for key in ("schema", "corpus_schema", "samples_schema"))
    return next((schema for schema in schemas if isinstance(schema, str)), "")


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and all(key in value for key in keys)


def _is_job(value: Any) -> bool:
    return _has(value, "corpus_schema", "text", "task_bytes")


def _is_marker(value: Any) -> bool:
    return _has(value, "job_sha256") and (_has(value, "shards") or _has(value, "counts"))


def _is_attempt(head: bytes) -> bool:
    try:
        return _has(json.loads(head.partition(b"\n")[0]), "event", "attempt")
    except ValueError:
        return False
