"""An exported model has the logits, loss and tokenizer of the trained model."""

import json
from pathlib import Path
from typing import Any

import pytest

from bigtrain.track.metrics_file import read_metrics
from tests.ranks import RankError, run_ranks
from tests.runs import LLAMA, bert_config, tiny_config, train_rank


def export(checkpoint: Path, out: Path) -> Any:
    """Exports a checkpoint; for ``run_ranks``."""
    from bigtrain.convert.export import export_hugging_face

    return export_hugging_face(checkpoint, out)


def export_with_swapped_weights(checkpoint: Path, out: Path) -> Any:
    """Exports with queries and keys swapped; for ``run_ranks``."""
    from bigtrain.convert.mapping import FusedQkv, GroupedQkv

    kinds: list[Any] = [FusedQkv, GroupedQkv]
    for kind in kinds:
        right = kind.to_hugging_face
        kind.to_hugging_face = lambda self, tensor, right=right: right(self, tensor).roll(1, -1)
    return export(checkpoint, out)


def mean_loss(folder: Path, corpus: Path, windows: int, length: int) -> float:
    """The mean loss that transformers computes over the first windows; for ``run_ranks``."""
    import torch
    from transformers import AutoModelForCausalLM

    from data_tools.corpus import open_corpus

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total = 0.0
    with open_corpus(corpus) as stream, torch.no_grad():
        for window in range(windows):
            ids = torch.from_numpy(
                stream.read(window * length, (window + 1) * length + 1).astype("i8")
            )
            logits = model(ids[None, :-1]).logits[0]
            total += float(torch.nn.functional.cross_entropy(logits, ids[1:]))
    return total / windows


def generate_three_texts(folder: Path) -> list[str]:
    """Generates with the same seed twice and with another one once; for ``run_ranks``."""
    from bigtrain.generate.options import Decoding
    from bigtrain.generate.prompts import prompts_of_arguments
    from bigtrain.generate.text_model import TextModel

    model, prompts = TextModel(folder), prompts_of_arguments(["abc"])
    decodings = [
        Decoding(max_new_tokens=8, sample=True, temperature=2.0, seed=seed) for seed in (3, 3, 4)
    ]
    return [model.continue_prompts(prompts, each)[0].text for each in decodings]


def use_gpt(folder: Path) -> dict[str, Any]:
    """Uses an exported GPT through transformers' usual calls; for ``run_ranks``."""
    from transformers import DataCollatorForLanguageModeling, pipeline

    pipe = pipeline("text-generation", model=str(folder))
    tokenizer, model = pipe.tokenizer, pipe.model
    greedy = {"max_new_tokens": 6, "do_sample": False}
    texts = ["abc", "abc def ghi"]
    rows = model.generate(**tokenizer(texts, padding=True, return_tensors="pt"), **greedy)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    batch = collator([tokenizer(text) for text in texts])
    return {
        "thrice": generate_three_texts(folder),
        "single": [pipe(text, **greedy)[0]["generated_text"] for text in texts],
        "batch": tokenizer.batch_decode(rows, skip_special_tokens=True),
        "first_id": int(model.generate(**greedy)[0, 0]),
        "eos": tokenizer.eos_token_id,
        "ids": tokenizer(texts)["input_ids"],
        "mask": batch["attention_mask"].tolist(),
        "labels": batch["labels"].tolist(),
    }


def use_bert(folder: Path) -> dict[str, Any]:
    """Uses an exported BERT through transformers' usual calls; for ``run_ranks``."""
    import torch
    from transformers import (
        AutoModelForPreTraining,
        DataCollatorForLanguageModeling,
        pipeline,
    )

    pipe = pipeline("fill-mask", model=str(folder))
    tokenizer = pipe.tokenizer
    pair = tokenizer("abc def", "ghi", return_tensors="pt")
    model = AutoModelForPreTraining.from_pretrained(folder).eval()
    found = model(**pair)
    torch.manual_seed(0)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.9)
    masked = collator([tokenizer("abc def", "ghi")] * 8)
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
    return {
        "class": type(model).__name__,
        "shapes": [list(found.prediction_logits.shape), list(found.seq_relationship_logits.shape)],
        "guesses": [guess["token_str"] for guess in pipe(f"abc {tokenizer.mask_token}")],
        "pair": tokenizer.decode(pair["input_ids"][0]),
        "types": pair["token_type_ids"][0].tolist(),
        "masks_special": bool(special & set(masked["labels"].flatten().tolist())),
        "masks": tokenizer.mask_token_id in masked["input_ids"],
    }


MODELS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_embeddings": False},
    "llama": {**LLAMA, "rope_scaling": {"factor": 4.0, "original_max_sequence_length": 16}},
}


@pytest.fixture(scope="module", params=MODELS)
def run(request: Any, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A short run of two tensor ranks, and its export."""
    folder = tmp_path_factory.mktemp("runs")
    config = tiny_config(
        corpus,
        folder,
        model=MODELS[request.param],
        train={"steps": 12},
        parallel={"tensor": 2, "device": "cpu"},
    )
    run_ranks(train_rank, 2, config)
    return config, run_ranks(export, 1, config.run_dir, folder / "exported")[0]


def test_the_export_is_verified_on_unusual_and_real_texts(run: Any) -> None:
    _, found = run
    assert found.logits.largest < 1e-5
    assert found.hard_texts >= 15
    assert found.real_texts == 8
    assert found.logits.compared % 500 == 0
    names = {path.name for path in found.folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer.model"} <= names
    assert json.loads((found.folder / "config.json").read_text())["vocab_size"] == 500


def test_transformers_computes_the_validation_loss_of_the_trainer(run: Any, corpus: Path) -> None:
    config, found = run
    theirs = run_ranks(mean_loss, 1, found.folder, corpus / "validation", 13, 32)[0]
    ours = read_metrics(config.run_dir / "metrics.jsonl", "validation")[-1]["loss"]
    assert theirs == pytest.approx(ours, abs=1e-3)


@pytest.fixture(scope="module")
def used(run: Any) -> Any:
    return run_ranks(use_gpt, 1, run[1].folder)[0]


def test_the_same_seed_generates_the_same_text(used: Any) -> None:
    first, second, other = used["thrice"]
    assert first == second != other


def test_a_prompt_has_the_same_continuation_in_a_padded_batch(used: Any) -> None:
    assert used["single"] == used["batch"]
    assert all(text.startswith("abc") for text in used["single"])


def test_a_text_starts_with_the_same_token_as_training_samples(used: Any) -> None:
    short, long = used["ids"]
    assert used["first_id"] == used["eos"]
    fill = [0] * (len(long) - len(short))
    assert used["mask"] == [[*fill, *(1 for _ in short)], [1] * len(long)]
    assert used["labels"] == [[*(-100 for _ in fill), *short], long]


def test_an_export_with_other_logits_is_refused_and_leaves_no_files(
    run: Any, tmp_path: Path
) -> None:
    with pytest.raises(RankError, match=r"logits differ .* nothing was kept"):
        run_ranks(export_with_swapped_weights, 1, run[0].run_dir, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_never_overwrites(run: Any) -> None:
    with pytest.raises(RankError, match="exists already"):
        run_ranks(export, 1, run[0].run_dir, run[1].folder)


def test_an_exported_bert_is_verified_and_is_not_a_generation_model(
    pair_corpus: Path, tmp_path: Path
) -> None:
    config = bert_config(
        pair_corpus, tmp_path, train={"steps": 4}, parallel={"tensor": 2, "device": "cpu"}
    )
    run_ranks(train_rank, 2, config)
    found = run_ranks(export, 1, config.run_dir, tmp_path / "exported")[0]
    assert found.logits.largest < 1e-5
    used = run_ranks(use_bert, 1, found.folder)[0]
    [logits, sentence] = used["shapes"]
    assert used["class"] == "MegatronBertForPreTraining"
    assert (logits[0], logits[2], sentence) == (1, 500, [1, 2])
    assert len(used["guesses"]) == 5
    assert used["pair"] == "<cls>abc def<sep>ghi<sep>"
    assert used["types"] == sorted(used["types"]) and set(used["types"]) == {0, 1}
    assert used["masks"] and not used["masks_special"]
    with pytest.raises(RankError, match="predicts masked tokens and cannot continue a text"):
        run_ranks(generate_three_texts, 1, found.folder)


@pytest.mark.parametrize(
    "model",
    [
        {"norm": "rmsnorm"},
        {"positions": "rope"},
        {"biases": False},
        {"num_kv_heads": 2},
        {"qk_norm": True},
        {**LLAMA, "qk_norm": True, "biases": True},
        {**LLAMA, "activation": "gelu"},
    ],
    ids=str,
)
def test_a_model_without_a_transformers_class_is_refused(model: dict[str, Any]) -> None:
    from bigtrain.convert.families import ExportError, family_of

    config = tiny_config(Path("corpus"), Path("runs"), model=model)
    with pytest.raises(ExportError, match="transformers has no class for a GPT with") as refusal:
        family_of(config.model)
    assert "\n" not in str(refusal.value)
