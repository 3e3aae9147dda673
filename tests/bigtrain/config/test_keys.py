"""The list of keys is complete, and is valid YAML with the defaults."""

from itertools import pairwise

import pytest

from bigtrain.config import ConfigError, RunConfig, load_config, load_run_config
from bigtrain.config.cluster import ClusterConfig
from bigtrain.config.errors import key_paths
from bigtrain.config.keys import render_keys
from bigtrain.config.yaml12 import parse_yaml
from tests.bigtrain.config.small_run import ConfigFolder


def test_every_key_is_listed_with_its_default(folder: ConfigFolder) -> None:
    folder.write("all.yaml", "\n".join(render_keys()))
    values = parse_yaml((folder.path / "all.yaml").read_text())
    listed = set()
    for path in key_paths(RunConfig):
        value = values
        for key in path.split("."):
            value = value[key]
        listed.add(path)
    assert "train.batch_ramp" in listed
    # Merged over the list, a small config gives the same run as without the list.
    assert load_run_config(["all.yaml", "small.yaml"]) == folder.load()


def test_each_key_has_a_description() -> None:
    lines = list(render_keys())
    for before, line in pairwise(lines):
        is_key = not line.lstrip().startswith("#")
        assert not is_key or before.lstrip().startswith("#"), line


def test_the_keys_of_a_cluster_profile_are_a_profile_with_the_defaults(
    folder: ConfigFolder,
) -> None:
    folder.write("profile.yaml", "\n".join(render_keys("cluster")))
    assert load_config([str(folder.path / "profile.yaml")], ClusterConfig) == ClusterConfig()


def test_a_single_section_can_be_listed() -> None:
    lines = list(render_keys("parallel"))
    assert lines[0] == "parallel:"
    assert "  tensor: 1" in lines
    assert not any("learning_rate" in line for line in lines)


def test_an_unknown_section_is_named_with_the_nearest_known_section() -> None:
    with pytest.raises(ConfigError, match=r"paralel: did you mean parallel\?"):
        list(render_keys("paralel"))
