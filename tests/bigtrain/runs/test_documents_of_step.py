"""`find_samples` lists the samples and documents of any past or future step."""

import json
from pathlib import Path

import pytest

from bigtrain.config import RunConfig, render_config
from bigtrain.config.layout import Layout
from bigtrain.data.batches import TrainingData
from bigtrain.runs.documents_of_step import FindSamplesError, find_samples, render_samples
from data_tools.corpus import open_corpus
from tests.runs import tiny_config


def _run_folder(config: RunConfig, lines: list[dict[str, int]]) -> Path:
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config.yaml").write_text(render_config(config))
    metrics = [json.dumps({"attempt": 1, "split": "train", **line}) for line in lines]
    (config.run_dir / "metrics.jsonl").write_text("".join(f"{line}\n" for line in metrics))
    return config.run_dir


def test_the_listed_samples_are_those_that_the_step_reads(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path, data={"workers": 0})
    run = _run_folder(config, [{"step": 1, "samples": 8}, {"step": 2, "samples": 16}])
    data = TrainingData(config, layout=Layout(), data_rank=0)
    rows = [row for m in data.batch(8).microbatches for row in m.tokens.tolist()]
    found = list(find_samples(run, 2))
    assert [sample.sample for sample in found] == list(range(8, 16))
    with open_corpus(corpus / "train") as stream:
        for sample, row in zip(found, rows, strict=True):
            first = sample.documents[0].first_token
            assert first == sample.row * 32
            assert stream.read(first, first + 32).tolist() == row
            assert sum(document.num_tokens for document in sample.documents) == 33
            for document in sample.documents:
                assert document.text in data.tokenizer.decode(stream.read(first, first + 200))


def test_a_future_step_is_listed_with_the_current_batch_size(corpus: Path, tmp_path: Path) -> None:
    # Two steps had 4 samples each; the config now has a batch size of 8.
    config = tiny_config(corpus, tmp_path)
    run = _run_folder(config, [{"step": 1, "samples": 4}, {"step": 2, "samples": 8}])
    samples = [sample.sample for sample in find_samples(run, 4)]
    assert samples == list(range(16, 24))


def test_repeated_steps_are_listed_as_the_later_attempt_took_them(
    corpus: Path, tmp_path: Path
) -> None:
    skipping = tiny_config(corpus, tmp_path, data={"skip": [{"first_sample": 80, "samples": 100}]})
    first = [{"step": n, "samples": 8 * n} for n in range(1, 21)]
    second = [{"step": n, "samples": 8 * n, "attempt": 2} for n in (11, 12)]
    run = _run_folder(skipping, [*first, *second])
    (run / "config-attempt-1.yaml").write_text(render_config(tiny_config(corpus, tmp_path)))
    for step, number in [(10, 72), (12, 188), (13, 196), (20, 252)]:
        assert next(iter(find_samples(run, step))).sample == number


def test_no_step_reads_the_numbers_of_skipped_samples(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path, data={"skip": [{"first_sample": 8, "samples": 100}]})
    run = _run_folder(config, [])
    numbers = [s.sample for step in (1, 2) for s in find_samples(run, step)]
    assert numbers == [*range(8), *range(108, 116)]


def test_the_lines_name_shard_pack_and_document(corpus: Path, tmp_path: Path) -> None:
    run = _run_folder(tiny_config(corpus, tmp_path), [])
    lines = list(render_samples(find_samples(run, 1)))
    heads = [line for line in lines if line.startswith("sample ")]
    assert [int(line.split()[1].rstrip(":")) for line in heads] == [*range(8)]
    assert all(f": {corpus / 'train'}, epoch 1, row " in line for line in heads)
    documents = [line for line in lines if line.startswith("  tokens-000000.tar, pack 000000-")]
    assert len(documents) >= 8
    assert len(lines) == len(heads) + 2 * len(documents)
    assert all(len(line) <= 80 for line in lines if line.startswith("    "))


@pytest.mark.parametrize(
    ("run", "step", "message"), [("x", 1, "not a run folder"), ("", 0, "counted from 1")]
)
def test_an_invalid_run_or_step_is_refused(
    corpus: Path, tmp_path: Path, run: str, step: int, message: str
) -> None:
    folder = _run_folder(tiny_config(corpus, tmp_path), [])
    with pytest.raises(FindSamplesError, match=message):
        list(find_samples(folder / run, step))
