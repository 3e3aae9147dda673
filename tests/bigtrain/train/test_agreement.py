"""The agreement check compares absolute paths, so ranks may have different working folders."""

from pathlib import Path

from bigtrain.config import RunConfig
from bigtrain.train.agreement import first_differences, values_to_compare
from tests.runs import tiny_config


def _differing_key(*configs: RunConfig) -> str | None:
    found = first_differences([values_to_compare(config) for config in configs])
    return found[0] if found else None


def test_nodes_with_different_working_folders_agree_on_absolute_paths(tmp_path: Path) -> None:
    one, other = (
        tiny_config(tmp_path / "c", tmp_path / "runs", relative_to=f"/home/{name}")
        for name in ("a", "b")
    )
    assert _differing_key(one, other) is None


def test_relative_paths_agree_if_they_resolve_to_the_same_path(tmp_path: Path) -> None:
    one = tiny_config(Path("c"), tmp_path, relative_to="/home/a")
    assert _differing_key(one, tiny_config(Path("c"), tmp_path, relative_to="/home/b")) == (
        "data.train"
    )
    other = tiny_config(Path("a/c"), tmp_path, relative_to="/home")
    assert _differing_key(one, other) is None
    changed = one.model_copy(update={"seed": 8})
    assert _differing_key(one, changed) == "seed"
