"""Writes a config.json for transformers 4 and 5, which name some keys differently."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig


def write_config(config: PreTrainedConfig, folder: Path, *, dtype: str = "float32") -> None:
    """Writes config.json with both names of every key that differs.

    Version 5 writes `rope_parameters` and `dtype`. Version 4 reads `rope_theta`, `rope_scaling`
    and, before 4.56, `torch_dtype`. If they are absent, it uses its defaults without a warning.
    """
    config.save_pretrained(folder)
    path = folder / "config.json"
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    values["dtype"] = values["torch_dtype"] = dtype
    if rope := values.get("rope_parameters"):
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        values["rope_theta"] = rope["rope_theta"]
        values["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")
