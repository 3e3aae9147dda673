"""Seconds of a step, compared with other trainers of the same GPT-2. Run on an idle machine, -s.

Each contender runs in its own process with two threads. They run in turn, round by round,
so that the machine's load affects all alike, and ratios are medians over the rounds.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table

from bigtrain.parallel.bf16 import find_slow_bf16
from bigtrain.plan.flops import model_flops
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.tokenizer import train_tokenizer
from tests.benchmarks.step_contenders import CONTENDERS, LENGTH, ROWS, VOCAB_SIZE, run_config

pytestmark = pytest.mark.slow

THREADS, ROUNDS, STEPS = 2, 5, 6
OURS, BARE = "bigtrain", "megatron-core without DeepSpeed"
TRAINER, COMPILED = "Hugging Face Trainer", "plain torch, compiled"
PRODUCTS = "2,048³ products"
AHEAD_OF_TRAINER = {"fp32": 1.1, "bf16": 1.25}


class Contender:
    """A process that takes a number of steps on request."""

    def __init__(self, name: str, precision: str, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.step_contenders", name, precision, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": str(THREADS), "CUDA_VISIBLE_DEVICES": ""},
        )
        assert self._read() == "ready", f"{name} did not start"

    def run(self, steps: int) -> dict[str, float]:
        """Takes steps; returns the seconds per step, in total and in the engine."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return {name: value / steps for name, value in json.loads(self._read()).items()}

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        # Skips what libraries print.
        for line in self._process.stdout:
            if line.startswith(("ready", '{"seconds"')):
                return line.strip()
        raise AssertionError("a contender died; run it by itself to see why")


@contextmanager
def _started(precision: str, folder: Path) -> Iterator[dict[str, Contender]]:
    names = [name for name in CONTENDERS if _is_possible(name)]
    with ExitStack() as stack:
        started = {}
        for name in names:
            started[name] = Contender(name, precision, folder)
            stack.callback(started[name].close)
        yield started


def _is_possible(name: str) -> bool:
    return name != COMPILED or shutil.which("g++") is not None


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of Python's standard library with a vocabulary of 8,192 tokens."""
    folder = tmp_path_factory.mktemp("speed")
    library = Path(sysconfig.get_paths()["stdlib"])
    files = (file for file in sorted(library.rglob("*.py")) if "site-packages" not in file.parts)
    texts = folder / "texts"
    texts.mkdir()
    for number, file in enumerate(file for file in files if file.stat().st_size > 2000):
        if number < 400:
            (texts / f"{number}.txt").write_text(file.read_text(errors="ignore"))
    tokenizer = folder / "tokenizer.model"
    pieces = (file.read_text() for file in sorted(texts.iterdir()))
    train_tokenizer(pieces, tokenizer, vocab_size=VOCAB_SIZE)
    shard_corpus([str(texts)], tokenizer=tokenizer, out=folder / "corpus")
    return folder / "corpus"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_are_faster_than_those_of_hugging_face(precision: str, corpus: Path) -> None:
    if precision == "bf16" and (slow := find_slow_bf16(torch.device("cpu"))) is not None:
        Console(width=100).print(f"bf16 is not compared: {slow}")
        pytest.skip(slow)
    with _started(precision, corpus) as contenders:
        rounds = [
            {name: contender.run(STEPS) for name, contender in contenders.items()}
            for _ in range(ROUNDS)
        ]
    products = [round_.pop(PRODUCTS)["seconds"] for round_ in rounds]
    flops = model_flops(run_config(precision, corpus)).model * ROWS
    peak = statistics.median(2 * 2048**3 / seconds for seconds in products)
    table = Table("", "tokens/s", "of the product's peak", "bigtrain is", title=f"{precision}")
    ahead = {}
    for name in rounds[0]:
        seconds = statistics.median(round_[name]["seconds"] for round_ in rounds)
        ahead[name] = statistics.median(
            round_[name]["seconds"] / round_[OURS]["seconds"] for round_ in rounds
        )
        share = statistics.median(
            flops / round_[name]["seconds"] / (2 * 2048**3 / product)
            for round_, product in zip(rounds, products, strict=True)
        )
        speed = f"{ROWS * LENGTH / seconds:,.0f}"
        table.add_row(name, speed, f"{share:.0%}", f"{ahead[name]:.2f} times as fast")
    ours = [round_[OURS] for round_ in rounds]
    python = statistics.median(1 - own["inside"] / own["seconds"] for own in ours)
    deepspeed = statistics.median(
        own["inside"] / round_[BARE]["seconds"] - 1
        for own, round_ in zip(ours, rounds, strict=True)
    )
    table.caption = (
        f"peak {peak / 1e9:,.0f} GFLOP/s; DeepSpeed's own cost {deepspeed:.1%} of a step, "
        f"the loop around the engine {python:.1%}"
    )
    Console(width=100).print(table)
    assert ahead[TRAINER] >= AHEAD_OF_TRAINER[precision]
    assert deepspeed < 0.05
    assert python < 0.03
