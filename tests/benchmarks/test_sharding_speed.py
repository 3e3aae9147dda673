"""Sharding is as fast as encoding only, and its memory does not grow with the text."""

import json
import multiprocessing
import re
import subprocess
import sys
import sysconfig
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psutil
import pytest
import sentencepiece
from rich.console import Console
from rich.table import Table

from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from data_tools.tokenizer import load_tokenizer, train_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

WORKERS = 2
ROUNDS = 2
MB = 1_000_000


def _library() -> list[str]:
    """Python's standard library, one file per document."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = []
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts:
            try:
                texts.append(path.read_text(encoding="utf-8"))
            except UnicodeDecodeError:  # Some test files are not UTF-8 on purpose.
                continue
    return [text for text in texts if text]


def _write_lines(path: Path, texts: list[str], size: int) -> int:
    """Writes at least `size` bytes of text; each repetition has another first line."""
    written = turn = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            for text in texts:
                changed = f"# Copy {turn}\n{text}" if turn else text
                file.write(json.dumps({"text": changed}) + "\n")
                written += len(changed.encode())
                if written >= size and turn:
                    break
            turn += 1
    return written


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return _library()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    out = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_tokenizer(texts[::4], out, vocab_size=16_384).path


def _encode(path: Path, tokenizer: Path, part: int, alone: str, barrier: Barrier) -> None:
    """A process that only encodes; all texts are in memory when the clock starts."""
    with path.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for number, line in enumerate(file) if number % 2 == part]
    if alone == "SentencePiece":
        processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
        barrier.wait()
        for text in texts:
            processor.encode(text, return_type="numpy")
    else:
        ours = load_tokenizer(tokenizer)
        barrier.wait()
        for text in texts:
            ours.encode(text)
    barrier.wait()


def _seconds_encoding(path: Path, tokenizer: Path, alone: str) -> float:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(WORKERS + 1)
    processes = [
        spawn.Process(target=_encode, args=(path, tokenizer, part, alone, barrier))
        for part in range(WORKERS)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    started = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - started
    for process in processes:
        process.join()
    return seconds


def _seconds_sharding(path: Path, tokenizer: Path, out: Path, **options: bool) -> float:
    """Seconds from the call to the sealed corpus, including the start of the processes."""
    started = time.perf_counter()
    chosen = ShardOptions(**options)
    shard_corpus([str(path)], tokenizer=tokenizer, out=out, workers=WORKERS, options=chosen)
    return time.perf_counter() - started


def test_sharding_is_as_fast_as_only_encoding_with_sentencepiece(
    tmp_path: Path, texts: list[str], tokenizer: Path
) -> None:
    path = tmp_path / "library.jsonl"
    size = _write_lines(path, texts, 30 * MB)
    best: dict[str, float] = {}
    for turn in range(ROUNDS):  # In turn, so that other load affects all alike.
        seconds = {
            "SentencePiece alone": _seconds_encoding(path, tokenizer, "SentencePiece"),
            "our encode alone": _seconds_encoding(path, tokenizer, "ours"),
            "data shard": _seconds_sharding(path, tokenizer, tmp_path / f"plain {turn}"),
            "data shard --shuffle": _seconds_sharding(
                path, tokenizer, tmp_path / f"shuffled {turn}", shuffle=True
            ),
            "data shard --sentences": _seconds_sharding(
                path, tokenizer, tmp_path / f"sentences {turn}", sentences=True
            ),
        }
        best = {name: min(value, best.get(name, value)) for name, value in seconds.items()}
    table = Table(
        "", "MB/s", "of SentencePiece", "of our encode", title=f"{size / MB:.1f} MB, 2 processes"
    )
    for name, value in best.items():
        ratios = (best["SentencePiece alone"] / value, best["our encode alone"] / value)
        table.add_row(name, f"{size / MB / value:.1f}", *(f"{ratio:.2f}" for ratio in ratios))
    Console(width=100).print(table)
    assert best["SentencePiece alone"] / best["data shard"] >= 0.9


def _peak_bytes(path: Path, tokenizer: Path, out: Path) -> int:
    """Peak resident bytes of a job or one of its workers, from the kernel's statistics."""
    words = [sys.executable, "-m", "bigtrain.cli", "data", "shard", str(path), "--workers", "2"]
    words += ["--tokenizer", str(tokenizer), "--out", str(out)]
    peak = 0
    with psutil.Popen(words, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for one in (process, *process.children(recursive=True)):
                peak = max(peak, _high_water(one.pid))
            time.sleep(0.05)
    assert process.returncode == 0
    return peak


def _high_water(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def test_memory_does_not_grow_with_the_corpus(
    tmp_path: Path, texts: list[str], tokenizer: Path
) -> None:
    table = Table("text", "peak of a process", title="data shard, 2 workers")
    peaks = []
    for size in (10 * MB, 300 * MB):
        path = tmp_path / "library.jsonl"
        written = _write_lines(path, texts[::4], size)
        peaks.append(_peak_bytes(path, tokenizer, tmp_path / f"{size}"))
        table.add_row(f"{written / MB:.0f} MB", f"{peaks[-1] / MB:.0f} MB")
    Console(width=100).print(table)
    assert peaks[1] - peaks[0] < 50 * MB
