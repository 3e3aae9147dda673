"""A cluster profile is checked when it is read: one line with the key and the remedy."""

from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import ConfigError, load_config
from bigtrain.config.cluster import ClusterConfig
from bigtrain.config.cluster_rules import parse_slurm_time
from bigtrain.config.yaml12 import render_yaml


def load(folder: Path, *overrides: str, **values: Any) -> ClusterConfig:
    (folder / "mine.yaml").write_text(render_yaml(values))
    return load_config([str(folder / "mine.yaml"), *overrides], ClusterConfig)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"partitoin": "gpu"}, "partitoin='gpu': there is no such key; did you mean partition?"),
        ({"gpus_per_node": "8"}, "gpus_per_node='8': give a whole number"),
        ({"spares": -1}, "spares=-1: give 0 or more"),
        ({"time": 60}, "time=60: give text; quote it"),
        ({"time": "1 day"}, "time='1 day': write a time as 24:00:00 or 2-00:00:00"),
        ({"time": "00:06:00"}, "time=00:06:00 leaves no time to train before the run saves"),
        ({"warning_seconds": 70000}, "warning_seconds=70000: give 65535 or less"),
        ({"restart": "always"}, "give 'requeue', 'chain' or 'none'"),
        ({"modules": "cuda"}, "modules='cuda': give a list, such as [a, b]"),
        ({"partition": "a b"}, "partition='a b': give one word"),
        ({"account": "--wrap=x"}, "a name does not begin with a dash; give options in sbatch"),
        ({"python": "~/env/bin/python"}, "variables and ~ are not expanded here; write it out"),
        ({"prolog": ["a\nb"]}, "prolog.0='a\\nb': give one line of text"),
        ({"sbatch": ["mail-type=FAIL"]}, "give the text after #SBATCH, such as --mail-type=FAIL"),
        ({"environment": {"A": "$HOME/x"}}, 'add the line export A="$HOME/x" to prolog'),
        ({"environment": {"A B": "x"}}, "'A B' is not a name of a variable"),
        ({"environment": {"A": 1}}, "environment.A=1: give text; quote it"),
        ({"gpu_type": "h100"}, "gpu_type: gpus_per_node is 0"),
        ({"gpus_per_node": 4, "ranks_per_node": 8}, "ranks_per_node=8: a rank needs a GPU"),
        ({"bind_cores": True}, "bind_cores=true needs cpus_per_rank"),
        ({"exclusive": False}, "exclusive=false needs cpus_per_rank"),
        ({"container": {"runtime": "docker", "image": "x"}}, "container.runtime='docker': give"),
        ({"container": {"runtime": "pyxis"}}, "container.image is missing"),
        ({"hosts": ["a"]}, "hosts is for scheduler: hosts"),
        ({"scheduler": "hosts"}, "scheduler=hosts needs hosts"),
        ({"scheduler": "hosts", "hosts": ["a", "a"]}, "a is given twice"),
        ({"scheduler": "hosts", "hosts": ["a"], "spares": 1}, "spares=1: 1 hosts leave none"),
        (
            {"scheduler": "hosts", "hosts": ["a"], "partition": "x", "time": "1:00:00"},
            "partition, time: for scheduler: slurm only",
        ),
        (
            {
                "scheduler": "hosts",
                "hosts": ["a"],
                "container": {"runtime": "pyxis", "image": "x"},
            },
            "container.runtime=pyxis is a part of SLURM; use apptainer",
        ),
    ],
)
def test_a_profile_that_cannot_be_is_refused_in_one_line_with_its_file(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, **values)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path / 'mine.yaml'}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("12:30:15", 45015),
        ("2-12", 216000),
        ("2-12:30", 217800),
        ("2-12:30:15", 217815),
        ("infinite", None),
        ("UNLIMITED", None),
        ("0", None),
    ],
)
def test_times_in_all_of_slurms_forms_are_read(text: str, seconds: int | None) -> None:
    assert parse_slurm_time(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1:2:3:4", "1d", "2-", "12:30:15-2"])
def test_other_text_is_not_a_time(text: str) -> None:
    with pytest.raises(ValueError, match="write a time as"):
        parse_slurm_time(text)


def test_paths_are_expanded_and_start_where_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    container = {"runtime": "apptainer", "image": "x.sif", "mounts": ["$SCRATCH:/s", "data"]}
    cluster = load(tmp_path, relative_to="/base", shared_folder="all", container=container)
    assert cluster.shared_folder == "/base/all"
    assert cluster.container_mounts == (
        "/scratch/me:/s",
        "/base/data:/base/data",
        "/base/all:/base/all",
    )
    monkeypatch.delenv("SCRATCH")
    with pytest.raises(ConfigError, match="there is no environment variable SCRATCH"):
        load(tmp_path, shared_folder="$SCRATCH/x")


def test_overrides_win_and_later_files_change_single_keys(tmp_path: Path) -> None:
    load(tmp_path, partition="a", gpus_per_node=8)
    (tmp_path / "more.yaml").write_text("partition: b\n")
    files = [str(tmp_path / name) for name in ("mine.yaml", "more.yaml")]
    cluster = load_config([*files, "spares=2"], ClusterConfig)
    assert (cluster.partition, cluster.num_ranks_per_node, cluster.spares) == ("b", 8, 2)


def test_a_profile_reads_back_from_json_as_it_was(tmp_path: Path) -> None:
    cluster = load(tmp_path, scheduler="hosts", hosts=["a", "b"], gpus_per_node=2)
    assert ClusterConfig.model_validate_json(cluster.model_dump_json()) == cluster
    with pytest.raises(ConfigError, match="relative_to=/x: it belongs in the file"):
        load(tmp_path, "relative_to=/x")
