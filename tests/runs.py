"""Tiny corpora, configs and whole training runs for the tests."""

import hashlib
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.storage_folder import open_folder
from bigtrain.config import RunConfig
from bigtrain.config.layout import config_in_layout, parse_layout
from bigtrain.environment import read_ranks
from bigtrain.runs.skip_file import with_skips
from data_tools.samples.build_sample_table import build_sample_table
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from data_tools.tokenizer import train_tokenizer

VOCAB_SIZE = 500


def make_corpus(
    folder: Path, *, documents: int = 60, seed: int = 0, sentences: bool = False
) -> Path:
    """Makes a corpus of invented sentences with a validation split; returns its folder."""
    chance = random.Random(seed)
    words = [
        "".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 7))) for _ in range(300)
    ]
    texts = folder / "texts"
    texts.mkdir(parents=True)
    for number in range(documents):
        lines = (" ".join(chance.choices(words, k=12)) + "." for _ in range(chance.randint(5, 30)))
        (texts / f"{number:03}.txt").write_text("\n".join(lines))
    tokenizer = folder / "tokenizer.model"
    train_tokenizer(
        (p.read_text() for p in sorted(texts.iterdir())), tokenizer, vocab_size=VOCAB_SIZE
    )
    corpus = folder / "corpus"
    shard_corpus(
        [str(texts)],
        tokenizer=tokenizer,
        out=corpus,
        options=ShardOptions(validation_percent=20, sentences=sentences),
    )
    return corpus


def make_pair_corpus(folder: Path) -> Path:
    """Makes a corpus with sentence boundaries and a table of 32-token sentence pairs per split."""
    corpus = make_corpus(folder, sentences=True)
    for split in ("train", "validation"):
        build_sample_table(corpus / split, mode="pairs", sequence_length=32, copies=4)
    return corpus


def tiny_config(corpus: Path, runs: Path, **sections: dict[str, Any] | Any) -> RunConfig:
    """The config of a GPT run of 4 layers that takes a second, updated with ``sections``."""
    values: dict[str, Any] = {
        "name": "tiny",
        "runs_dir": str(runs),
        "seed": 7,
        "model": {
            "num_layers": 4,
            "hidden_size": 32,
            "num_heads": 4,
            "vocab_size": VOCAB_SIZE,
            "max_sequence_length": 32,
        },
        "data": {
            "train": str(corpus / "train"),
            "validation": str(corpus / "validation"),
            "sequence_length": 32,
        },
        "optim": {"learning_rate": 3e-3, "warmup_steps": 2},
        "train": {"steps": 30, "global_batch_size": 8, "micro_batch_size": 2, "log_every": 10},
        "validation": {"every": 15, "samples": 13},
        "checkpoint": {"every": 10},
        "parallel": {"device": "cpu"},
        # A peak given in the config is not measured.
        "track": {"wandb": "off", "peak_tflops": 1.0},
    }
    return RunConfig.model_validate(merge(values, sections))


def bert_config(corpus: Path, runs: Path, **sections: dict[str, Any] | Any) -> RunConfig:
    """The config of a tiny BERT run; ``corpus`` is from ``make_pair_corpus``."""
    bert = {"model": {"kind": "bert"}, "data": {"packing": "pairs"}}
    return tiny_config(corpus, runs, **merge(bert, sections))


LLAMA = {
    "positions": "rope",
    "norm": "rmsnorm",
    "activation": "swiglu",
    "biases": False,
    "num_kv_heads": 2,
    "ffn_hidden_size": 64,
}
"""What makes the tiny model a Llama: ``tiny_config(…, model=LLAMA)``."""

CLASSIC_BERT = {"kind": "bert", "norm_position": "post"}
"""What makes the tiny model the BERT of Devlin et al."""


def merge(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Returns ``values`` updated with ``over``, section by section."""
    merged = dict(values)
    for name, section in over.items():
        is_section = isinstance(section, dict)
        merged[name] = {**values.get(name, {}), **section} if is_section else section
    return merged


def in_layout(config: RunConfig, layout: str) -> tuple[RunConfig, int]:
    """The config in a layout such as ``tensor=2 data=2 zero=1``, and the number of ranks."""
    split = parse_layout(layout)
    return config_in_layout(config, split), split.world_size


def train_rank(config: RunConfig, **options: Any) -> Any:
    """Runs one rank of ``bigtrain train``; for ``run_ranks``."""
    return train_resolved(with_skips(config), **options)


def train_resolved(config: RunConfig, **options: Any) -> Any:
    """Runs one rank of ``bigtrain launch``, which reads the resolved config; for ``run_ranks``."""
    from bigtrain.parallel.device import choose_device
    from bigtrain.train.run import train

    ranks = read_ranks()
    return train(config, ranks=ranks, device=choose_device("cpu", ranks), **options)


def save_engine(
    engine: Any, state: Any, checkpoints: str | Path, *, tokenizer: bytes = b""
) -> None:
    """Saves the current state of an engine; all ranks call this function."""
    import torch

    from bigtrain.checkpoint.saver import Saver
    from bigtrain.config.sections import CheckpointConfig

    saver = Saver(
        open_folder(checkpoints),
        engine,
        policy=CheckpointConfig(),
        tokenizer=tokenizer,
        attempt=1,
        device=torch.device("cpu"),
    )
    saver.save(state)


def hash_tensors(
    checkpoint: str | Path, kinds: Iterable[str] = ("weight", "first_moment")
) -> dict[str, str]:
    """The sha256 of every global tensor in a checkpoint, however it is split into boxes."""
    table = CheckpointReader(open_folder(checkpoint))
    return {
        f"{kind}/{name}": hashlib.sha256(table.read_tensor(kind, name)).hexdigest()
        for kind in kinds
        for name in table.names(kind)
    }


def modification_times(folder: Path) -> dict[Path, int]:
    """The modification time, in ns, of each file under ``folder`` except the run's lock."""
    files = (path for path in folder.rglob("*") if path.name != "lock")
    return {path: path.stat().st_mtime_ns for path in files}
