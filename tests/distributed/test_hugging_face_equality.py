"""Logits equal those of transformers, and losses equal those of transformers with torch's AdamW."""

from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from bigtrain.track.metrics_file import read_metrics
from tests.ranks import run_ranks
from tests.runs import CLASSIC_BERT, LLAMA, bert_config, tiny_config, train_rank

STEPS = 20
SCALED = {
    "rope_theta": 500.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_frequency_factor": 1.0,
        "high_frequency_factor": 4.0,
        "original_max_sequence_length": 16,
    },
}
"""A stretch that touches all three kinds of wavelengths of an 8 wide head."""


def largest_difference(configs: list[RunConfig]) -> list[float]:
    """Largest logit difference from transformers, per model; weights are random."""
    import torch

    from bigtrain.convert.families import hugging_face_outputs
    from tests.distributed.hugging_face import (
        build_transformers_model,
        build_unsplit_model,
        one_rank,
    )

    found = []
    with one_rank(), torch.no_grad():
        for config in configs:
            module, tensors = build_unsplit_model(config, random_std=0.4)
            tokens = torch.randint(0, 500, (2, 32), generator=torch.Generator().manual_seed(2))
            expected = hugging_face_outputs(
                build_transformers_model(config, tensors).eval(), config.model, tokens
            )
            ours = outputs(module.eval(), config, tokens)
            assert all(float(logits.std()) > 0.02 for logits in expected)
            found.append(
                max(float((a - b).abs().max()) for a, b in zip(ours, expected, strict=True))
            )
    return found


def outputs(module: Any, config: RunConfig, tokens: Any) -> Any:
    """The outputs of a bigtrain model for tokens, without padded vocabulary columns."""
    import torch

    from bigtrain.convert.families import token_types_of_halves

    if config.model.kind == "gpt":
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
        return (module(tokens, positions, None)[..., : config.model.vocab_size],)
    types, everywhere = token_types_of_halves(tokens), torch.ones_like(tokens, dtype=torch.bool)
    logits, sentence = module(tokens, everywhere, types)
    return logits[..., : config.model.vocab_size], sentence


def losses_of_transformers(config: RunConfig, folder: Path | None = None) -> list[float]:
    """The losses of transformers' model trained by torch's AdamW; for ``run_ranks``.

    Args:
        config: The run.
        folder: A Hugging Face folder to start from; by default the run's initial weights.
    """
    import torch

    from bigtrain.convert.families import family_of
    from bigtrain.data.batches import TrainingData
    from bigtrain.train.learning_rate import learning_rate
    from tests.distributed.hugging_face import (
        ONE_RANK,
        build_transformers_model,
        build_unsplit_model,
        one_rank,
    )

    if folder is None:
        with one_rank():
            reference = build_transformers_model(config, build_unsplit_model(config)[1]).train()
    else:
        loader = family_of(config.model).loader
        reference = loader.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        set_dropout(reference.train(), config.model.dropout)
    matrices = [p for p in reference.parameters() if p.ndim > 1]
    vectors = [p for p in reference.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        betas=(config.optim.beta1, config.optim.beta2),
        eps=config.optim.epsilon,
        weight_decay=config.optim.weight_decay,
    )
    data = TrainingData(config, layout=ONE_RANK, data_rank=0)
    losses = []
    for step in range(1, config.train.steps + 1):
        batch = data.batch((step - 1) * config.train.global_batch_size)
        loss = batch_loss(reference, config, batch.microbatches)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), config.optim.clip_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    data.close()
    return losses


def set_dropout(model: Any, value: float) -> None:
    """Sets the probability of every dropout of a model."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = value


def batch_loss(reference: Any, config: RunConfig, microbatches: Any) -> Any:
    """The mean loss over the targets of a batch, plus the mean over its sentence pairs if any."""
    import torch

    cross_entropy = torch.nn.functional.cross_entropy
    total, sentences = 0.0, 0.0
    for microbatch in microbatches:
        if config.model.kind == "gpt":
            logits = reference(microbatch.tokens).logits
        else:
            found = reference(
                microbatch.tokens,
                attention_mask=microbatch.padding_mask.long(),
                token_type_ids=microbatch.token_types,
            )
            logits = found.prediction_logits
            sentences = sentences + cross_entropy(
                found.seq_relationship_logits, microbatch.is_random, reduction="sum"
            )
        losses = cross_entropy(logits.flatten(0, 1), microbatch.targets.flatten(), reduction="none")
        total = total + (losses * microbatch.weights.flatten()).sum()
    targets = sum(microbatch.weights.sum() for microbatch in microbatches)
    return total / targets + sentences / config.train.global_batch_size


MODELS: dict[str, dict[str, Any]] = {
    "gpt": {},
    "gpt, untied": {"tie_embeddings": False},
    "llama": LLAMA,
    "llama, stretched positions": LLAMA | SCALED,
    "llama, biases, untied": {**LLAMA, "biases": True, "tie_embeddings": False},
    "llama, one key head": {**LLAMA, "num_kv_heads": 1},
    "qwen3": {**LLAMA, "qk_norm": True},
    "bert": {"kind": "bert"},
    "bert, untied": {"kind": "bert", "tie_embeddings": False},
    "classic bert": CLASSIC_BERT,
    "classic bert, untied": {**CLASSIC_BERT, "tie_embeddings": False},
}


def test_logits_equal_those_of_transformers() -> None:
    configs = [
        tiny_config(
            Path("corpus"),
            Path("runs"),
            model=model,
            data={"packing": "pairs" if "kind" in model else "concat"},
        )
        for model in MODELS.values()
    ]
    found = dict(zip(MODELS, run_ranks(largest_difference, 1, configs)[0], strict=True))
    assert max(found.values()) < 1e-4, found


@pytest.mark.parametrize("name", ["gpt", "llama", "bert", "classic bert"])
def test_twenty_steps_give_the_losses_of_transformers_and_torch(
    name: str, corpus: Path, pair_corpus: Path, tmp_path: Path
) -> None:
    is_bert = "kind" in MODELS[name]
    make, text = (bert_config, pair_corpus) if is_bert else (tiny_config, corpus)
    config = make(
        text,
        tmp_path,
        train={"steps": STEPS},
        validation={"every": 1000, "samples": 1},
        checkpoint={"every": 1000},
        model=MODELS[name],
    )
    run_ranks(train_rank, 1, config)
    ours = [event["loss"] for event in read_metrics(config.run_dir / "metrics.jsonl", "train")]
    theirs = run_ranks(losses_of_transformers, 1, config)[0]
    assert len(ours) == STEPS
    assert ours[-1] < ours[0] - 0.1
    assert ours == pytest.approx(theirs, abs=1e-4)
