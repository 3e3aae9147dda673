"""Several validation corpora: one loss per corpus, and one loss over all of them."""

import random
from pathlib import Path

import pytest

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.resume_rules import check_resume
from bigtrain.data.corpus_checks import check_data
from bigtrain.track.metrics_file import read_metrics
from data_tools.sharding.shard_corpus import shard_corpus
from tests.ranks import run_ranks
from tests.runs import tiny_config, train_rank


@pytest.fixture(scope="module")
def other(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A smaller corpus of other text."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "texts").mkdir()
    letters = random.Random(3).choices("qrstuvwxyz ", k=1500)
    (folder / "texts" / "a.txt").write_text("".join(letters))
    tokenizer = corpus / "train" / "tokenizer.model"
    shard_corpus([str(folder / "texts")], tokenizer=tokenizer, out=folder / "corpus")
    return str(folder / "corpus" / "train")


def _config(corpus: Path, runs: Path, validation: str | list[str] | None) -> RunConfig:
    # Each corpus has 13 samples in a batch of 16: the last 3 rows have weight 0.
    train = {"steps": 3, "global_batch_size": 16}
    return tiny_config(corpus, runs, train=train, data={"validation": validation})


def test_each_corpus_has_a_loss_and_all_tokens_have_one(
    corpus: Path, other: str, tmp_path: Path
) -> None:
    own = str(corpus / "validation")
    config = _config(corpus, tmp_path / "both", [own, other])
    [_] = run_ranks(train_rank, 1, config)
    [both] = read_metrics(config.run_dir / "metrics.jsonl", "validation")
    for name in (own, other):
        config = _config(corpus, tmp_path / str(len(name)), name)
        run_ranks(train_rank, 1, config)
        [single] = read_metrics(config.run_dir / "metrics.jsonl", "validation")
        assert [key for key in single if "loss" in key] == ["loss"]
        assert both[f"loss/{name}"] == pytest.approx(single["loss"], abs=1e-6)
    assert abs(both[f"loss/{own}"] - both[f"loss/{other}"]) > 0.01
    # Both corpora have 13 samples.
    assert both["loss"] == pytest.approx((both[f"loss/{own}"] + both[f"loss/{other}"]) / 2)


def test_a_resumed_run_may_change_its_validation_corpora(corpus: Path, tmp_path: Path) -> None:
    own = str(corpus / "validation")
    saved = _config(corpus, tmp_path, own).model_dump(mode="json")
    assert saved["data"]["validation"] == own
    for validation in (None, [own], [own, "another"]):
        check_resume(saved, _config(corpus, tmp_path, validation))


def test_a_training_split_is_refused_at_every_position_of_the_list(
    corpus: Path, other: str, tmp_path: Path
) -> None:
    for names in ([str(corpus / "train"), other], [other, str(corpus / "train")]):
        with pytest.raises(ConfigError, match=r"data\.validation=.*train may hold text of"):
            check_data(_config(corpus, tmp_path, names))
    check_data(_config(corpus, tmp_path, [other, str(corpus / "validation")]))


def test_a_corpus_under_two_names_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").symlink_to(corpus / "validation")
    names = [str(corpus / "validation"), str(tmp_path / "copy")]
    with pytest.raises(ConfigError, match="are the same corpus; name it once"):
        check_data(_config(corpus, tmp_path, names))
