"""Throughput of reading windows, compared with other loaders; `make bench` prints the tables."""

import importlib.util
import io
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table

from bigtrain.config.data import DataConfig
from bigtrain.data.corpora import Source, open_source, source_order
from bigtrain.data.sample_order import SampleOrder
from bigtrain.data.token_reader import TokenReader
from tests.benchmarks.synthetic_corpora import SPECIAL, make_random_corpus, make_sparse_corpus
from tests.runs import tiny_config

pytestmark = pytest.mark.slow

LENGTH, BATCH, ROUNDS = 2048, 64, 7
TOKENS = 60_000_000


class Loader:
    """Reads batches as a rank does, without the checks against tokenizer and model."""

    def __init__(self, folder: Path, *, batch: int = BATCH) -> None:
        data = {"train": str(folder), "validation": None, "sequence_length": LENGTH}
        model = {"max_sequence_length": LENGTH}
        train = {"global_batch_size": batch, "micro_batch_size": batch}
        base = tiny_config(folder, Path("unused"))
        self.config = tiny_config(
            folder,
            Path("unused"),
            data=data,
            train=train,
            model={**base.model.model_dump(), **model},
        )
        self.source: Source = open_source(self.config.data, str(folder))
        self._order = SampleOrder(
            DataConfig.model_validate({**self.config.data.model_dump()}),
            [source_order(self.config, self.source)],
            seed=1,
        )
        self._reader = TokenReader(self.config, special=SPECIAL)
        self._batch = batch

    def read(self, consumed: int) -> torch.Tensor:
        """One batch, as tensors."""
        locations = self._order.locate(np.arange(consumed, consumed + self._batch))
        self.source.will_need(locations.rows)
        batch = self._reader.read([self.source], locations, own=np.arange(self._batch))
        return batch.microbatches[0].tokens


def ours(folder: Path) -> Iterator[Any]:
    loader, consumed = Loader(folder), 0
    while True:
        yield loader.read(consumed)
        consumed += BATCH


def nanogpt(flat: Path) -> Iterator[Any]:
    """Random windows of a flat file, as nanoGPT's training script reads them."""
    data = np.memmap(flat, dtype=np.uint16, mode="r")
    while True:
        starts = torch.randint(len(data) - LENGTH, (BATCH,))
        yield (
            torch.stack([torch.from_numpy(data[s : s + LENGTH].astype(np.int64)) for s in starts]),
            torch.stack(
                [torch.from_numpy(data[s + 1 : s + 1 + LENGTH].astype(np.int64)) for s in starts]
            ),
        )


def webdataset_windows(tar: Path) -> Iterator[Any]:
    import webdataset

    while True:
        samples = webdataset.WebDataset(str(tar), shardshuffle=False).shuffle(1000).decode()
        rows = []
        for sample in samples:
            rows.append(sample["tokens.npy"].astype(np.int64))
            if len(rows) == BATCH:
                yield torch.from_numpy(np.stack(rows))
                rows = []


def litdata_windows(folder: Path) -> Iterator[Any]:
    from litdata import StreamingDataset, TokensLoader

    dataset = StreamingDataset(
        str(folder), item_loader=TokensLoader(block_size=LENGTH + 1), shuffle=True
    )
    while True:
        rows = []
        for row in dataset:
            rows.append(row)
            if len(rows) == BATCH:
                yield torch.stack(rows).to(torch.int64)
                rows = []


def _write_window_tar(tokens: np.ndarray, tar: Path) -> Path:
    windows = tokens[: 8_000 * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    with tarfile.open(tar, "w") as archive:
        for number, window in enumerate(windows):
            content = io.BytesIO()
            np.save(content, window)
            member = tarfile.TarInfo(f"{number:07d}.tokens.npy")
            member.size = content.tell()
            content.seek(0)
            archive.addfile(member, content)
    return tar


def _write_litdata(flat: Path, folder: Path) -> Path:
    """Runs in a separate process, because litdata leaves workers behind."""
    script = (
        "import sys, numpy as np, torch\n"
        "from litdata import optimize, TokensLoader\n"
        "flat, out = sys.argv[1:]\n"
        "def parts(number):\n"
        "    data = np.memmap(flat, dtype=np.uint16, mode='r')\n"
        "    step = len(data) // 8\n"
        "    yield torch.from_numpy(data[number * step : (number + 1) * step].astype(np.int32))\n"
        "if __name__ == '__main__':\n"
        f"    optimize(parts, inputs=list(range(8)), output_dir=out, num_workers=1,\n"
        f"             chunk_size={(LENGTH + 1) * 4096}, item_loader=TokensLoader({LENGTH + 1}))\n"
    )
    file = folder.with_name("make_chunks.py")
    file.write_text(script)
    subprocess.run([sys.executable, str(file), str(flat), str(folder)], check=True, timeout=250)
    return folder


def _rates(loaders: dict[str, Callable[[], Iterator[Any]]]) -> dict[str, list[float]]:
    """Mtok/s of each loader, measured in turn, so that the machine's load affects all alike."""
    running = {name: make() for name, make in loaders.items()}
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for batches in running.values():
        for _ in range(TOKENS // LENGTH // BATCH // 4):
            next(batches)
    for _ in range(ROUNDS):
        for name, batches in running.items():
            started, count = time.perf_counter(), 0
            while time.perf_counter() - started < 0.4:
                next(batches)
                count += 1
            seconds = time.perf_counter() - started
            rates[name].append(count * BATCH * (LENGTH + 1) / seconds / 1e6)
    return rates


def test_windows_come_faster_than_from_other_loaders(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    corpus = make_random_corpus(tmp_path / "corpus", num_tokens=TOKENS)
    flat = tmp_path / "flat.bin"
    tokens = np.random.default_rng(0).integers(71, 32_000, TOKENS).astype(np.uint16)
    tokens.tofile(flat)
    tar = _write_window_tar(tokens, tmp_path / "windows.tar")
    loaders: dict[str, Callable[[], Iterator[Any]]] = {
        "bigtrain": lambda: ours(corpus),
        "nanoGPT (memmap)": lambda: nanogpt(flat),
        "webdataset, a window a member": lambda: webdataset_windows(tar),
    }
    if importlib.util.find_spec("litdata"):
        lit = _write_litdata(flat, tmp_path / "litdata")
        loaders["litdata"] = lambda: litdata_windows(lit)
    rates = _rates(loaders)
    ratios = {
        name: statistics.median(a / b for a, b in zip(rates["bigtrain"], found, strict=True))
        for name, found in rates.items()
    }
    table = Table("loader", "Mtok/s (median)", "bigtrain is", title="shuffled windows of 2,049")
    for name, found in rates.items():
        table.add_row(name, f"{statistics.median(found):.0f}", f"{ratios[name]:.2f} times as fast")
    Console(width=100).print(table)
    assert ratios["nanoGPT (memmap)"] >= 0.5
    assert ratios["webdataset, a window a member"] >= 3
    assert ratios.get("litdata", 2.0) > 1


def test_the_first_batch_of_a_terabyte_is_read_quickly_from_any_position(tmp_path: Path) -> None:
    corpus = make_sparse_corpus(tmp_path / "corpus", num_bytes=10**12)
    Loader(corpus, batch=8)  # Imports modules before the measurement.
    rows = [(n, *_open_and_read(corpus, n)) for n in (0, 10**6, 7 * 10**6, 10**8, 240_000_000)]
    table = Table("sample", "open (ms)", "first batch (ms)", title="1 TB, 8 windows of 2,049")
    for position, opening, reading in rows:
        table.add_row(f"{position:,}", f"{opening * 1e3:.1f}", f"{reading * 1e3:.1f}")
    Console(width=100).print(table)
    assert max(reading for _, _, reading in rows) < 0.05


def _open_and_read(corpus: Path, position: int) -> tuple[float, float]:
    """Seconds to open a corpus and to read one batch; the best of three."""
    tries = []
    for _ in range(3):
        started = time.perf_counter()
        loader = Loader(corpus, batch=8)
        opened = time.perf_counter()
        loader.read(position)
        tries.append((opened - started, time.perf_counter() - opened))
        assert loader.source.corpus.num_tokens > 0.49e12
        loader.source.close()
    return min(opening for opening, _ in tries), min(reading for _, reading in tries)


_READ_ALL = """
import sys
from pathlib import Path
import psutil
from tests.benchmarks.test_loader_speed import BATCH, Loader
loader = Loader(Path(sys.argv[1]))
loader.read(0)
before = peak = psutil.Process().memory_info().rss
for consumed in range(0, max(loader.source.num_samples, 5 * BATCH), BATCH):
    loader.read(consumed)
    peak = max(peak, psutil.Process().memory_info().rss)
print(before / 2**20, peak / 2**20)
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    growth = {}
    table = Table("corpus (MB)", "after the first batch (MB)", "peak of an epoch (MB)")
    for size in (10, 100, 1000):
        corpus = make_random_corpus(tmp_path / str(size), num_tokens=size * 500_000)
        done = subprocess.run(
            [sys.executable, "-c", _READ_ALL, str(corpus)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        )
        before, peak = map(float, done.stdout.split())
        growth[size] = peak - before
        table.add_row(str(size), f"{before:.0f}", f"{peak:.0f}")
    Console(width=100).print(table)
    assert growth[1000] < growth[10] + 10
