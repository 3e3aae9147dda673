"""A run whose data is damaged for a while: its loss diverges.

The mixture has three phases: text, then a corpus of noise, then the text again.
"""

import random
from pathlib import Path
from typing import Any

from bigtrain.config import RunConfig
from bigtrain.runs.documents_of_step import find_samples
from bigtrain.track.metrics_file import read_metrics
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from data_tools.tokenizer import train_tokenizer
from tests.runs import tiny_config

FIRST_BAD, FIRST_GOOD_AGAIN = 160, 240
"""Samples of the noise: those of steps 21 to 30, at 8 samples a step."""


def make_corpora(folder: Path) -> dict[str, Path]:
    """Makes a corpus of one sentence, which is learned soon, and one of random letters.

    Returns:
        The training splits, by the names ``text`` and ``noise``.
    """
    chance = random.Random(5)
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    texts = {
        "text": "the quick brown fox jumps over the lazy dog and sleeps. " * 600,
        "noise": " ".join("".join(chance.choices(alphabet, k=5)) for _ in range(6000)),
    }
    tokenizer = folder / "tokenizer.model"
    train_tokenizer((text[:20000] for text in texts.values()), tokenizer, vocab_size=500)
    corpora = {}
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text("\n".join([text]))
        shard_corpus(
            [str(folder / f"{name}.txt")],
            tokenizer=tokenizer,
            out=folder / name,
            options=ShardOptions(validation_percent=0),
        )
        corpora[name] = folder / name / "train"
    return corpora


def diverging_config(corpora: dict[str, Path], runs: Path, **guard: Any) -> RunConfig:
    """A run of 40 steps that reads the noise from step 21 on, with these keys of the loss guard."""
    text, noise = ({"sources": [{"corpus": str(corpora[name])}]} for name in ("text", "noise"))
    stages = [
        text,
        {**noise, "start_sample": FIRST_BAD},
        {**text, "start_sample": FIRST_GOOD_AGAIN},
    ]
    config = tiny_config(
        Path("unused"),
        runs,
        train={"steps": 40, "micro_batch_size": 8},
        optim={"learning_rate": 1e-2, "warmup_steps": 2},
        checkpoint={"every": 5},
        guard={"window": 16, "stop_after": 2, "rewind_steps": 12, **guard},
    ).model_dump(mode="json")
    config["data"] |= {"train": None, "validation": None, "stages": stages}
    return RunConfig.model_validate(config)


def check_skipped(config: RunConfig) -> None:
    """The run took all steps, with other samples in the place of those around the noise."""
    lines = read_metrics(config.run_dir / "metrics.jsonl", "train")
    assert [line["step"] for line in lines] == [*range(1, 41)]
    assert not any(line.get("skipped") for line in lines)
    read = [s.sample for step in range(1, 41) for s in find_samples(config.run_dir, step)]
    # The spike begins at step 21; 12 steps before it and 12 from it on are skipped.
    assert read == [*range(64), *range(256, 512)]
