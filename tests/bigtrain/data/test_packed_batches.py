"""Batches of packed documents and of sentence pairs on the ranks of any layout."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.layout import Layout
from bigtrain.data.batches import TrainingData
from bigtrain.data.microbatch import PairMicrobatch
from data_tools.errors import InputError
from data_tools.samples.build_sample_table import build_sample_table
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from tests.runs import tiny_config

LENGTH = 128


@pytest.fixture(scope="module")
def planned(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus with sentences and a sample table for each packing."""
    out = tmp_path_factory.mktemp("planned") / "corpus"
    texts = str(corpus.parent / "texts")
    shard_corpus(
        [texts],
        tokenizer=corpus / "train" / "tokenizer.model",
        out=out,
        options=ShardOptions(validation_percent=20, sentences=True),
    )
    for split in ("train", "validation"):
        for mode in ("bestfit", "pad", "pairs"):
            copies = 4 if mode == "pairs" else 1
            build_sample_table(out / split, mode=mode, sequence_length=LENGTH, copies=copies)
    return out


def _config(corpus: Path, packing: str, **train: int) -> RunConfig:
    sections: dict[str, Any] = {
        "train": {"global_batch_size": 24, "micro_batch_size": 2, **train},
        "model": {"max_sequence_length": LENGTH},
        "data": {
            "packing": "concat" if packing == "pairs" else packing,
            "sequence_length": LENGTH,
            "workers": 1,
        },
    }
    config = tiny_config(corpus, Path("unused"), **sections)
    # The config is a GPT's, so the packing is set without validation.
    return config.model_copy(update={"data": config.data.model_copy(update={"packing": packing})})


def _data(config: RunConfig, copies: int = 1, rank: int = 0) -> TrainingData:
    return TrainingData(config, layout=Layout(data=copies), data_rank=rank)


def _together(config: RunConfig, copies: int, consumed: int) -> list[Any]:
    """The microbatches of a batch from all ranks, in order of their samples."""
    shares = [_data(config, copies, rank).batch(consumed).microbatches for rank in range(copies)]
    return [microbatch for passes in zip(*shares, strict=True) for microbatch in passes]


@pytest.mark.parametrize("packing", ["bestfit", "pad"])
def test_in_an_epoch_each_token_of_each_document_is_a_target_once(
    planned: Path, packing: str
) -> None:
    config = _config(planned, packing, global_batch_size=2)
    data = _data(config)
    asked, expected = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    samples = data.sources[0].num_samples
    for consumed in range(0, samples - samples % 2, 2):
        for m in data.batch(consumed).microbatches:
            counts = m.weights.bool()
            asked.update(zip(m.tokens[counts].tolist(), m.targets[counts].tolist(), strict=True))
    for ids in data.sources[0].corpus.documents():
        expected.update(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True))
    missing = (expected - asked).total()
    assert not asked - expected
    assert missing <= (LENGTH if samples % 2 else 0)


@pytest.mark.parametrize("packing", ["bestfit", "pad", "pairs"])
@pytest.mark.parametrize("copies", [2, 3, 4])
def test_a_batch_is_the_same_for_any_number_of_ranks(
    planned: Path, packing: str, copies: int
) -> None:
    config = _config(planned, packing)
    single, shared = (_together(config, n, 24) for n in (1, copies))
    for one, other in zip(single, shared, strict=True):
        for name in one.__dataclass_fields__:
            assert getattr(one, name).equal(getattr(other, name)), name


def test_each_rank_gets_the_number_of_targets_of_a_batch_of_unequal_rows(planned: Path) -> None:
    batches = [_data(_config(planned, "pad"), 3, rank).batch(48) for rank in range(3)]
    own = [sum(int(m.weights.sum()) for m in batch.microbatches) for batch in batches]
    assert len(set(own)) > 1
    assert {batch.num_targets for batch in batches} == {sum(own)}


def _pairs(data: TrainingData, batches: range) -> list[list[PairMicrobatch]]:
    return [data.batch(24 * number).microbatches for number in batches]


def test_pairs_of_a_batch_have_one_length_and_under_5_percent_padding(planned: Path) -> None:
    batches = _pairs(_data(_config(planned, "pairs")), range(30))
    tokens = sum(int(m.padding_mask.sum()) for batch in batches for m in batch)
    places = sum(m.padding_mask.numel() for batch in batches for m in batch)
    assert 1 - tokens / places < 0.05
    for batch in batches:
        assert len({m.tokens.shape for m in batch}) == 1
        assert all(m.tokens.shape[1] % 8 == 0 for m in batch)


def test_the_rates_of_masked_tokens_and_random_pairs_are_right(planned: Path) -> None:
    data = _data(_config(planned, "pairs"))
    microbatches = [m for batch in _pairs(data, range(60)) for m in batch]
    text = sum(int(m.padding_mask.sum()) - 3 * len(m.tokens) for m in microbatches)
    guessed = sum(int(m.weights.sum()) for m in microbatches)
    assert guessed / text == pytest.approx(0.15, abs=0.01)
    seen = np.concatenate([m.tokens[m.weights.bool()].numpy() for m in microbatches])
    asked = np.concatenate([m.targets[m.weights.bool()].numpy() for m in microbatches])
    mask = data.tokenizer.special.mask
    assert (seen == mask).mean() == pytest.approx(0.8, abs=0.02)
    assert (seen == asked).mean() == pytest.approx(0.1, abs=0.02)
    assert not {*asked.tolist()} & {*range(71)}
    assert not {*seen.tolist()} & ({*range(71)} - {mask})
    is_random = np.concatenate([m.is_random.numpy() for m in microbatches])
    assert is_random.mean() == pytest.approx(0.5, abs=0.05)


def test_a_resumed_run_masks_the_same_tokens(planned: Path) -> None:
    config = _config(planned, "pairs")
    running = _data(config)
    _pairs(running, range(5))
    one, other = running.batch(5 * 24).microbatches, _data(config).batch(5 * 24).microbatches
    assert all(a.tokens.equal(b.tokens) for a, b in zip(one, other, strict=True))


def test_the_next_epoch_masks_other_tokens_of_the_pairs(planned: Path) -> None:
    data = _data(_config(planned, "pairs"))
    per_epoch = data.order._sources[0].units_per_epoch
    found: list[dict[tuple[int, ...], list[list[int]]]] = []
    for epoch in range(2):
        masks: dict[tuple[int, ...], list[list[int]]] = {}
        for batch in _pairs(data, range(epoch * per_epoch, (epoch + 1) * per_epoch)):
            for m in batch:
                for targets, weights in zip(m.targets.tolist(), m.weights.tolist(), strict=True):
                    masks.setdefault(tuple(targets), []).append(weights)
        found.append(masks)
    both = set(found[0]) & set(found[1])
    assert len(both) > 100
    assert sum(found[0][pair] != found[1][pair] for pair in both) > 0.9 * len(both)


def test_for_a_missing_sample_table_the_command_is_named(corpus: Path) -> None:
    with pytest.raises(InputError, match=r"bigtrain data samples .*train --mode bestfit"):
        _data(_config(corpus, "bestfit"))


def test_a_gpt_with_sentence_pairs_is_refused(corpus: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.packing=pairs makes no samples for model"):
        tiny_config(corpus, Path("unused"), data={"packing": "pairs"})


def test_a_table_smaller_than_a_batch_is_refused(planned: Path) -> None:
    with pytest.raises(ConfigError, match="sentence pairs are fewer than one batch"):
        _data(_config(planned, "pairs", global_batch_size=100_000))


def test_fewer_documents_than_ranks_are_read_repeatedly(planned: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"one short document, called {name}. " * 3)
    out = tmp_path / "corpus"
    shard_corpus([str(tmp_path)], tokenizer=planned / "train" / "tokenizer.model", out=out)
    build_sample_table(out / "train", mode="pad", sequence_length=LENGTH)
    config = _config(planned, "pad").model_copy(
        update={
            "data": _config(planned, "pad").data.model_copy(
                update={"train": str(out / "train"), "validation": None}
            )
        }
    )
    microbatches = _together(config, 4, 0)
    rows = Counter(tuple(row) for m in microbatches for row in m.tokens.tolist())
    assert sorted(rows.values()) == [12, 12]
    assert _data(config).epochs(24) == {str(out / "train"): 12.0}
