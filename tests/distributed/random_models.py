"""Random models in random layouts of up to four ranks, each drawn from a seed."""

import random
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.layout import Layout, config_in_layout, parse_layout
from tests.runs import VOCAB_SIZE, bert_config, tiny_config


def random_case(seed: int, corpus: Path, pair_corpus: Path, runs: Path) -> tuple[RunConfig, Layout]:
    """The config of a one-process run, and a layout of 2 to 4 ranks that it allows."""
    rng = random.Random(seed)
    while True:
        model, sections = _draw_run(rng)
        layout = parse_layout(_draw_layout(rng))
        is_bert = model["kind"] == "bert"
        make, texts = (bert_config, pair_corpus) if is_bert else (tiny_config, corpus)
        try:
            config = make(texts, runs, model=model, **sections)
            config_in_layout(config, layout)
        except (ConfigError, ValidationError):
            continue
        if 2 <= layout.world_size <= 4:
            return config, layout


def _draw_run(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    is_bert = rng.random() < 0.25
    heads = rng.choice([1, 2, 3, 4, 6, 8])
    head_size = rng.choice([2, 3, 4, 5, 6, 8, 12, 16, 24])
    model: dict[str, Any] = {
        "kind": "bert" if is_bert else "gpt",
        "num_layers": rng.randint(1, 6),
        "hidden_size": heads * head_size,
        "num_heads": heads,
        "ffn_hidden_size": rng.choice([24, 36, 50, 64, 96, 130]),
        "vocab_size": VOCAB_SIZE,
        "vocab_multiple": rng.choice([4, 12, 128]),
        "max_sequence_length": 64,
        "qk_norm": rng.random() < 0.5,
        "tie_embeddings": rng.random() < 0.5,
        "init_std": rng.choice([0.01, 0.02, 0.05, 0.2]),
    }
    length = 32
    if not is_bert:
        length = rng.choice([8, 12, 24, 32, 48, 64])
        groups = [kv for kv in range(1, heads + 1) if heads % kv == 0]
        model |= {
            "num_kv_heads": rng.choice(groups),
            "positions": rng.choice(["learned", "rope"]),
            "norm": rng.choice(["layernorm", "rmsnorm"]),
            "activation": rng.choice(["gelu", "swiglu"]),
            "biases": rng.random() < 0.5,
        }
    micro = rng.choice([1, 2, 3, 4])
    sections = {
        "data": {"sequence_length": length, **({} if is_bert else _draw_packing(rng))},
        "optim": {
            "learning_rate": rng.choice([1e-4, 1e-3, 3e-3, 1e-2]),
            "warmup_steps": rng.choice([0, 2]),
            "z_loss": 0.0 if is_bert else rng.choice([0.0, 1e-4]),
        },
        "train": {
            "global_batch_size": micro * rng.choice([4, 8, 12]),
            "micro_batch_size": micro,
        },
    }
    return model, sections


def _draw_packing(rng: random.Random) -> dict[str, Any]:
    return {"document_attention": True} if rng.random() < 0.25 else {}


def _draw_layout(rng: random.Random) -> str:
    tensor = rng.choice([1, 2, 2, 3, 4])
    pipeline = rng.choice([1, 1, 2, 3, 4])
    data = rng.choice([1, 1, 2, 3, 4])
    words = [f"tensor={tensor}", f"pipeline={pipeline}", f"data={data}"]
    if tensor > 1 and rng.random() < 0.5:
        words.append("sequence=true")
    if pipeline > 1 and rng.random() < 0.4:
        words.append("virtual_pipeline=2")
    words.append(f"zero={rng.randint(0, 3)}")
    return " ".join(words)
