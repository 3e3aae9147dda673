"""Ranks with different configs or different data report it in one line and do not train."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from bigtrain.environment import read_ranks
from bigtrain.train.agreement import first_differences, render_differences
from tests.ranks import RankError, run_ranks
from tests.runs import make_corpus, tiny_config, train_resolved


def train_each(configs: list[RunConfig], folders: list[Path]) -> Any:
    """Trains each rank with its own config in its own working folder."""
    rank = read_ranks().rank
    os.environ["LOCAL_RANK"] = "0"  # Each rank acts as one node.
    os.chdir(folders[rank])
    return train_resolved(configs[rank])


def _refusals(configs: list[RunConfig], folders: list[Path]) -> list[str]:
    """The error messages of the two nodes."""
    with pytest.raises(RankError) as caught:
        run_ranks(train_each, 2, configs, folders)
    return re.findall(r"ConfigError: (.*)", str(caught.value))


def test_a_differing_value_is_reported_with_its_key_before_groups_are_made(
    corpus: Path, tmp_path: Path
) -> None:
    config = tiny_config(corpus, tmp_path)
    # The layouts differ too: if groups were made, the ranks would wait for each other.
    changes = {"optim": {"weight_decay": 0.2}, "parallel": {"tensor": 2}}
    other = tiny_config(corpus, tmp_path, **changes)
    messages = _refusals([config, other], [tmp_path, tmp_path])
    assert {*messages} == {
        "run tiny: the ranks read different configs: optim.weight_decay is 0.1 on rank 0, 0.2 on "
        "rank 1; make sure that all nodes have the same files, and start again"
    }
    assert not (config.run_dir / "config.yaml").exists()


def test_node_folders_may_differ_but_corpora_of_the_same_name_may_not(
    corpus: Path, tmp_path: Path
) -> None:
    other = make_corpus(tmp_path / "other", seed=1)
    configs, nodes = [], []
    for name, train in (("a", corpus / "train"), ("b", other / "train")):
        node = tmp_path / name
        node.mkdir()
        (node / "corpus").symlink_to(train)
        data = {"cache_dir": f"/tmp/{name}", "train": "corpus", "validation": None}
        configs.append(tiny_config(corpus, tmp_path, data=data))
        nodes.append(node)
    messages = _refusals(configs, nodes)
    assert len({*messages}) == 1
    assert messages[0].startswith(
        "run tiny: the ranks opened different data: the fingerprint of corpus"
    )


def test_all_ranks_with_a_differing_value_are_named() -> None:
    values = [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}]
    found = first_differences(values)
    assert found is not None
    assert render_differences(*found) == "b is 2 on rank 0, 3 on ranks 1, 3"
    assert first_differences(values[:1] * 3) is None
    assert first_differences([{}, {"c": 4}]) == ("c", {0: None, 1: 4})
