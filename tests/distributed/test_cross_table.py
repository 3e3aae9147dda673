"""Checkpoints saved in one layout and loaded in another give the same bits and the same losses.

``pytest -s -m '' tests/distributed/test_cross_table.py`` prints the table.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import KINDS
from bigtrain.checkpoint.storage_folder import open_folder
from bigtrain.config import RunConfig
from bigtrain.config.layout import ONE_PROCESS
from bigtrain.parity.compare import FP32_TOLERANCES
from bigtrain.track.metrics_file import read_metrics
from tests.ranks import run_ranks
from tests.runs import (
    LLAMA,
    bert_config,
    hash_tensors,
    in_layout,
    save_engine,
    tiny_config,
    train_rank,
)

LAYOUTS = (
    ONE_PROCESS,
    "tensor=2",
    "pipeline=2",
    "data=2 zero=1",
    "data=2 zero=2",
    "data=2 zero=3",
    "tensor=2 data=2 zero=1",
    "tensor=2 pipeline=2",
)
QUICK = {
    ("gpt", "tensor=2 data=2 zero=1", "data=2 zero=3"),
    ("gpt", "data=2 zero=3", "tensor=2 pipeline=2"),
    ("gpt", "data=2 zero=3", "tensor=2 data=2 zero=1"),
    ("gpt", "pipeline=2", "data=2 zero=2"),
    ("gpt", "pipeline=2", "data=2"),
}
"""Every way to cut a tensor, written and read; the rest takes minutes."""
PAIRS = [
    *(("gpt", saved_in, loaded_in) for saved_in in LAYOUTS for loaded_in in LAYOUTS),
    *(("bert", "tensor=2", loaded_in) for loaded_in in LAYOUTS),
    *(("llama", "data=2 zero=3", loaded_in) for loaded_in in ("tensor=2 pipeline=2", ONE_PROCESS)),
    # Without ZeRO, all data ranks hold the same state, and one of them writes it.
    *(("gpt", "data=2", loaded_in) for loaded_in in ("data=2 zero=3", "tensor=2 pipeline=2")),
    ("gpt", "pipeline=2", "data=2"),
]
MODELS: dict[str, dict[str, Any]] = {"gpt": {}, "bert": {"kind": "bert"}, "llama": LLAMA}

SAVED_STEP, STEPS = 6, 11
SAVED = f"step-{SAVED_STEP:08d}"


@dataclass(frozen=True, slots=True)
class _Source:
    """A run that continued after its checkpoint."""

    checkpoint: Path
    hashes: dict[str, str]
    losses: list[float]
    """The losses of the steps after the checkpoint."""


@dataclass(slots=True)
class _Table:
    """The saving runs, each trained at its first use, and the loss difference of each pair."""

    texts: dict[str, Path]
    folder: Path
    sources: dict[tuple[str, str], _Source]
    cells: dict[str, dict[tuple[str, str], float]]

    def source(self, model: str, layout: str) -> _Source:
        """The run of a model that saves in a layout."""
        if (model, layout) not in self.sources:
            self.sources[model, layout] = self._train(model, layout)
        return self.sources[model, layout]

    def config(self, model: str, layout: str, **sections: Any) -> tuple[RunConfig, int]:
        """The config of the model's run in a layout, and the number of ranks."""
        is_bert = model == "bert"
        config = (bert_config if is_bert else tiny_config)(
            self.texts[model],
            self.folder,
            model=MODELS[model],
            train={"steps": STEPS},
            validation={"every": 100},
            **sections,
        )
        return in_layout(config, layout)

    def render(self) -> str:
        """One table per model: a row per saving layout, a column per loading layout."""
        return "\n".join(_render(model, cells) for model, cells in self.cells.items())

    def _train(self, model: str, layout: str) -> _Source:
        name = f"{model} {layout}".replace(" ", "-").replace("=", "")
        saving = {"every": SAVED_STEP}  # Saves are asynchronous by default.
        config, world_size = self.config(model, layout, name=name, checkpoint=saving)
        run_ranks(train_rank, world_size, config)
        checkpoint = config.run_dir / "checkpoints" / SAVED
        return _Source(checkpoint, hash_tensors(checkpoint, KINDS), _losses(config)[SAVED_STEP:])


@pytest.fixture(scope="module")
def table(
    corpus: Path, pair_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[_Table]:
    """The table, which is printed after the last test."""
    texts = {"gpt": corpus, "llama": corpus, "bert": pair_corpus}
    table = _Table(texts, tmp_path_factory.mktemp("runs"), {}, defaultdict(dict))
    yield table
    sys.stdout.write(f"\n{table.render()}\n")


def save_loaded_state_and_train(config: RunConfig, out: Path) -> None:
    """Trains, and saves the loaded state at once after loading; for ``run_ranks``."""
    from bigtrain.train import start_point

    load = start_point.load_checkpoint

    def load_and_save(folder: Any, engine: Any, **options: Any) -> Any:
        state = load(folder, engine, **options)
        save_engine(engine, state, out)
        return state

    start_point.load_checkpoint = load_and_save
    train_rank(config)


@pytest.mark.parametrize(
    ("model", "saved_in", "loaded_in"),
    [
        pytest.param(*pair, id=" -- ".join(pair), marks=() if pair in QUICK else pytest.mark.slow)
        for pair in PAIRS
    ],
)
def test_another_layout_loads_the_same_bits_and_gives_the_same_losses(
    model: str, saved_in: str, loaded_in: str, table: _Table, tmp_path: Path
) -> None:
    source = table.source(model, saved_in)
    fork = {"load": str(source.checkpoint)}
    config, world_size = table.config(
        model, loaded_in, name="fork", runs_dir=str(tmp_path), checkpoint=fork
    )
    run_ranks(save_loaded_state_and_train, world_size, config, tmp_path / "again")
    assert hash_tensors(tmp_path / "again" / SAVED, KINDS) == source.hashes
    losses = _losses(config)
    assert len(losses) == len(source.losses) == STEPS - SAVED_STEP
    apart = max(abs(a / b - 1) for a, b in zip(losses, source.losses, strict=True))
    table.cells[model][saved_in, loaded_in] = apart
    assert apart <= FP32_TOLERANCES.loss


def test_the_vocabulary_of_the_table_needs_padding(table: _Table) -> None:
    saved = CheckpointReader(open_folder(table.source("gpt", "data=2 zero=3").checkpoint))
    config, _ = table.config("gpt", ONE_PROCESS)
    assert (config.model.vocab_size, config.model.padded_vocab_size) == (500, 512)
    embedding = "weight/embedding.word_embeddings.weight"
    assert saved.tensors[embedding].shape == (512, config.model.hidden_size)
    assert all(len(saved.names(kind)) == 52 for kind in KINDS)


def _losses(config: RunConfig) -> list[float]:
    return [line["loss"] for line in read_metrics(config.run_dir / "metrics.jsonl", "train")]


def _render(model: str, cells: dict[tuple[str, str], float]) -> str:
    order = [*LAYOUTS, "data=2"]
    rows, columns = (sorted({pair[axis] for pair in cells}, key=order.index) for axis in (0, 1))
    wide = max(len(name) for name in ("saved in", *rows))
    lines = [
        f"{model}: all bits equal; largest relative difference of the next "
        f"{STEPS - SAVED_STEP} losses",
        "  ".join([f"{'saved in':{wide}}", *columns]),
    ]
    for row in rows:
        figures = [
            f"{cells[row, column]:{len(column)}.1e}"
            if (row, column) in cells
            else " " * len(column)
            for column in columns
        ]
        lines.append("  ".join([f"{row:{wide}}", *figures]))
    return "\n".join(lines)
