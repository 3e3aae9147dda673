"""`bigtrain evaluate` gives the figures that transformers computes, on any number of ranks."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bigtrain.track.metrics_file import read_metrics
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from data_tools.tokenizer import train_tokenizer
from tests.ranks import RankError, run_ranks
from tests.runs import bert_config, tiny_config, train_rank

LENGTH = 32


def export(checkpoint: Path, out: Path) -> Any:
    """Exports a checkpoint; for ``run_ranks``."""
    from bigtrain.convert.export import export_hugging_face

    return export_hugging_face(checkpoint, out).folder


def evaluate_rank(folder: Path) -> Any:
    """Evaluates as one rank; returns the figures of each corpus and of all; for ``run_ranks``."""
    from bigtrain.environment import read_ranks
    from bigtrain.evaluate.measure import evaluate_as_rank
    from bigtrain.evaluate.request import MEASURED_FILE, read_request
    from bigtrain.parallel.device import choose_device

    ranks = read_ranks()
    config, device = read_request(folder)[1], choose_device("cpu", ranks)
    evaluate_as_rank(folder, config, ranks=ranks, device=device)
    return json.loads((folder / MEASURED_FILE).read_text()) if ranks.rank == 0 else None


def evaluate(run: Path, corpora: list[Path], folder: Path, layout: str, **options: Any) -> Any:
    """Evaluates a run in a layout, as the command does."""
    from bigtrain.config.layout import parse_layout
    from bigtrain.evaluate.request import (
        Request,
        check_corpora,
        find_evaluated,
        plan_config,
        plan_stride,
        write_request,
    )

    stride = options.pop("stride", None)
    found = find_evaluated(str(run), step=options.pop("step", None))
    given = {"processes": None, "length": None, "precision": None, **options}
    config, split = plan_config(found.config, layout=parse_layout(layout), **given)
    names = tuple(map(str, corpora))
    check_corpora(config, names, tokenizer_sha256=found.state.tokenizer_sha256)
    request = Request(str(found.folder), names, plan_stride(config, stride))
    folder.mkdir(exist_ok=True)
    write_request(folder, request, config, checkpoint=found.folder)
    return run_ranks(evaluate_rank, split.world_size, folder)[0]


def loss_of_transformers(folder: Path, corpora: list[Path], stride: int) -> list[dict[str, Any]]:
    """What transformers computes, window by window, one token at a time; for ``run_ranks``."""
    import torch
    from transformers import AutoModelForCausalLM

    from data_tools.corpus import open_corpus
    from data_tools.tokenizer import load_tokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for name in corpora:
        with open_corpus(name) as corpus, torch.no_grad():
            tokenizer = load_tokenizer(corpus.local_file(corpus.manifest.tokenizer.file))
            stream = [tokenizer.special.eos, *corpus.read(0, corpus.num_tokens).tolist()]
            losses: dict[int, float] = {}
            for first in range(0, len(stream) - 1, stride):
                ids = torch.tensor(stream[first : first + LENGTH + 1])
                scores = model(ids[None, :-1]).logits[0].log_softmax(-1)
                lost = -scores.gather(1, ids[1:, None])[:, 0]
                for place, loss in enumerate(lost.tolist()):
                    losses.setdefault(first + place, loss)
            texts = [tokenizer.decode(document) for document in corpus.documents()]
        assert sorted(losses) == list(range(len(stream) - 1))
        size = sum(len(text.encode()) for text in texts)
        total = sum(losses.values())
        found.append(
            {
                "tokens": len(losses),
                "document_ends": len(texts),
                "bytes": size,
                "loss": total / len(losses),
                "perplexity": math.exp(total / len(losses)),
                "bits_per_byte": total / math.log(2) / size,
            }
        )
    return found


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run."""
    config = tiny_config(corpus, tmp_path_factory.mktemp("runs"), train={"steps": 12})
    run_ranks(train_rank, 1, config)
    return config.run_dir


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_ranks(export, 1, run, tmp_path_factory.mktemp("exports") / "run")[0]


@pytest.fixture(scope="module")
def corpora(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two small corpora made with the run's tokenizer; the first has text that is not ASCII."""
    folder = tmp_path_factory.mktemp("small")
    made = []
    for name, repeats in (("short", 5), ("long", 20)):
        texts = folder / f"{name}.jsonl"
        documents = (f"abc déf {'ghi jkl. ' * (n % repeats)}✓ {n}" for n in range(2 * repeats))
        texts.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
        options = ShardOptions(validation_percent=0)
        tokenizer = corpus.parent / "tokenizer.model"
        shard_corpus([str(texts)], tokenizer=tokenizer, out=folder / name, options=options)
        made.append(folder / name / "train")
    return made


@pytest.mark.parametrize("stride", [LENGTH, 10])
def test_figures_are_those_of_transformers_on_one_and_two_ranks(
    run: Path, exported: Path, corpora: list[Path], tmp_path: Path, stride: int
) -> None:
    theirs = run_ranks(loss_of_transformers, 1, exported, corpora, stride)[0]
    one = evaluate(run, corpora, tmp_path / "one", "one process", stride=stride)
    two = evaluate(run, corpora, tmp_path / "two", "data=2", stride=stride)
    for ours, other, expected in zip(one, two, theirs, strict=False):
        assert ours == pytest.approx(expected, rel=1e-6)
        assert other == pytest.approx(ours, rel=1e-9)


def test_the_total_weighs_every_token_equally(
    run: Path, corpora: list[Path], tmp_path: Path
) -> None:
    small, large, total = evaluate(run, corpora, tmp_path / "both", "data=2", stride=None)
    assert small["tokens"] * 2 < large["tokens"]
    for key in ("tokens", "document_ends", "bytes"):
        assert total[key] == small[key] + large[key]
    summed = sum(each["loss"] * each["tokens"] for each in (small, large))
    assert total["loss"] == pytest.approx(summed / total["tokens"])
    assert total["bits_per_byte"] == pytest.approx(summed / math.log(2) / total["bytes"])


def evaluate_export(folder: Path, corpora: list[Path], **options: Any) -> Any:
    """Evaluates an exported folder; for ``run_ranks``."""
    from bigtrain.evaluate.hugging_face import ExportedModel

    model = ExportedModel(folder, length=options.get("length"), precision="fp32")
    return model.evaluate([*map(str, corpora)], stride=options.get("stride", LENGTH))[1]


def test_an_exported_folder_has_the_figures_of_its_run(
    run: Path, exported: Path, corpora: list[Path], tmp_path: Path
) -> None:
    ours = evaluate(run, corpora, tmp_path / "run", "one process", stride=20)
    theirs = run_ranks(evaluate_export, 1, exported, corpora, stride=20)[0]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_a_model_split_over_ranks_has_the_same_figures(
    run: Path, corpora: list[Path], tmp_path: Path
) -> None:
    one = evaluate(run, corpora, tmp_path / "one", "one process", step=10)[-1]
    newest = evaluate(run, corpora, tmp_path / "newest", "one process")[-1]
    split = evaluate(run, corpora, tmp_path / "split", "tensor=2", step=10)[-1]
    assert split == pytest.approx(one, rel=1e-5)
    assert newest["loss"] != pytest.approx(one["loss"], rel=1e-5)


def test_an_export_refuses_what_does_not_fit(
    exported: Path, corpora: list[Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("other words and more of them " * 40)
    tokenizer = tmp_path / "other.model"
    train_tokenizer([text.read_text()], tokenizer, vocab_size=350)
    options = ShardOptions(validation_percent=0)
    shard_corpus([str(text)], tokenizer=tokenizer, out=tmp_path / "other", options=options)
    with pytest.raises(RankError, match=r"EvaluationError: .* made with another tokenizer"):
        run_ranks(evaluate_export, 1, exported, [tmp_path / "other/train"])
    with pytest.raises(RankError, match=r"EvaluationError: --length 64 is more than the 32 tokens"):
        run_ranks(evaluate_export, 1, exported, corpora, length=64)


def test_a_bert_has_the_accuracies_of_its_validation_on_one_and_two_ranks(
    pair_corpus: Path, tmp_path: Path
) -> None:
    config = bert_config(
        pair_corpus,
        tmp_path,
        train={"steps": 4, "global_batch_size": 32, "micro_batch_size": 8},
        validation={"every": 4, "samples": None},
    )
    run_ranks(train_rank, 1, config)
    trained = read_metrics(config.run_dir / "metrics.jsonl", "validation")[-1]
    corpora = [pair_corpus / "validation"]
    one, _ = evaluate(config.run_dir, corpora, tmp_path / "one", "one process")
    two, _ = evaluate(config.run_dir, corpora, tmp_path / "two", "data=2")
    assert two == pytest.approx(one, rel=1e-9)
    for name in ("loss", "mlm_loss", "mlm_accuracy", "sentence_loss", "sentence_accuracy"):
        assert one[name] == pytest.approx(trained[name], rel=1e-6)
    assert one["mlm_perplexity"] == pytest.approx(math.exp(one["mlm_loss"]))
    assert one["pairs"] > 900
    assert one["masked_tokens"] > one["pairs"]
