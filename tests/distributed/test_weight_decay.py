"""Weight decay applies to matrices, not to biases and norms."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from tests.ranks import run_ranks
from tests.runs import LLAMA, bert_config, hash_tensors, make_pair_corpus, tiny_config, train_rank


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus for every kind of model."""
    return make_pair_corpus(tmp_path_factory.mktemp("pairs"))


def _config(kind: str, corpus: Path, runs: Path, *, steps: int, decay: float) -> RunConfig:
    sections: dict[str, Any] = {
        "model": LLAMA if kind == "llama" else {},
        "optim": {"schedule": "constant", "weight_decay": decay},
        "train": {"steps": steps},
        "validation": {"every": 100, "samples": 8},
    }
    make = bert_config if kind == "bert" else tiny_config
    if kind == "bert":
        sections["model"] = {"kind": "bert"}
    return make(corpus, runs, **sections)


@pytest.mark.parametrize("kind", ["gpt", "llama", "bert"])
def test_matrices_decay_and_biases_and_norms_do_not(kind: str, pairs: Path, tmp_path: Path) -> None:
    # Biases start at zero, where decay has no effect: first take some steps without decay.
    common = _config(kind, pairs, tmp_path / "plain", steps=3, decay=0.0)
    run_ranks(train_rank, 1, common)
    weights = {}
    for name, decay in [("decayed", 0.5), ("plain", 0.0)]:
        if name == "decayed":
            shutil.copytree(tmp_path / "plain", tmp_path / name)
        config = _config(kind, pairs, tmp_path / name, steps=4, decay=decay)
        run_ranks(train_rank, 1, config, accept_changes=["optim"])
        checkpoint = config.run_dir / "checkpoints" / "step-00000004"
        weights[name] = hash_tensors(checkpoint, ("weight",))
    decayed, plain = weights["decayed"], weights["plain"]
    assert decayed.keys() == plain.keys()
    changed = {name for name in plain if decayed[name] != plain[name]}
    is_vector = {name for name in plain if name.endswith("bias") or "norm" in name}
    assert is_vector
    assert changed == plain.keys() - is_vector
