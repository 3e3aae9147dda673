"""Hugging Face folders that a run may start from, as far as it can be known without torch."""

import hashlib
from pathlib import Path

from data_tools.files import file_sha256

CONFIG_FILE = "config.json"
IMPORTED = "imported"
"""The checkpoint in a run folder that `launch` makes of a Hugging Face folder."""


class ImportRefusal(ValueError):
    """The import was refused; the message is one line and says why. No files are left."""


def check_is_hugging_face_folder(folder: Path) -> None:
    """Checks that a folder can be one, before the import of torch takes seconds.

    Raises:
        ImportRefusal: It has no config.json.
    """
    if not is_hugging_face_folder(folder):
        raise ImportRefusal(
            f"{folder}: no {CONFIG_FILE}; give a folder with {CONFIG_FILE}, safetensors and a "
            "tokenizer, as save_pretrained writes it"
        )


def is_hugging_face_folder(place: str | Path) -> bool:
    """Whether a path is a folder with a config.json, which no checkpoint and no run folder has."""
    return "://" not in str(place) and (Path(place) / CONFIG_FILE).is_file()


def fingerprint(folder: Path) -> str:
    """A hash of the JSON files, and of the names, sizes and times of the weights' files."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        if path.suffix == ".json":
            digest.update(file_sha256(path).encode())
        else:
            digest.update(str(path.stat().st_mtime_ns).encode())
    return digest.hexdigest()
