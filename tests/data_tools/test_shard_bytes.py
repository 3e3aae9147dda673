"""Every shard has the same sha256 for any number of workers and after any kill -9."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from rich.console import Console
from rich.table import Table

from data_tools.files import file_sha256
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from tests.data_tools.small_texts import WORDS

OPTIONS = {"pack_tokens": 2000, "validation_percent": 20, "shuffle": True, "sentences": True}


def write_lines(path: Path, count: int) -> Path:
    rng = Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            words = " ".join(rng.choices(WORDS, k=rng.randint(5, 200)))
            file.write(json.dumps({"text": f"Story {number}. 今天下雨。{words}."}) + "\n")
    return path


def command(text: Path, tokenizer: Path, out: Path, workers: int, task_bytes: int) -> list[str]:
    code = (
        "import json, sys; from pathlib import Path\n"
        "from data_tools.sharding.shard_corpus import shard_corpus\n"
        "from data_tools.sharding.shard_options import ShardOptions\n"
        "if __name__ == '__main__':\n"
        "    text, tokenizer, out, options = sys.argv[1:]\n"
        "    options = json.loads(options)\n"
        "    out, workers = Path(out), options.pop('workers')\n"
        "    options = ShardOptions(**options)\n"
        "    shard_corpus(\n"
        "        [text], tokenizer=Path(tokenizer), out=out, options=options, workers=workers\n"
        "    )\n"
    )
    options = json.dumps({**OPTIONS, "workers": workers, "task_bytes": task_bytes})
    return [sys.executable, "-c", code, str(text), str(tokenizer), str(out), options]


def kill_during_job(words: list[str], out: Path, rng: Random) -> bool:
    """Kills a job after it has written some files; returns whether it was still running."""
    enough = len(list(out.rglob("*"))) + rng.randint(3, 12)
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(words, cwd=root, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(out.rglob("*"))) < enough:
            time.sleep(rng.random() / 100)
        process.kill()
    return process.returncode == -signal.SIGKILL


def hashes(out: Path) -> dict[str, str]:
    files = (path for split in ("train", "validation") for path in sorted((out / split).iterdir()))
    return {path.relative_to(out).as_posix(): file_sha256(path) for path in files}


def show(columns: dict[str, dict[str, str]]) -> None:
    table = Table("file", *columns, title="sha256, the first 8 digits, by workers")
    table.columns[0].no_wrap = True
    for name in next(iter(columns.values())):
        table.add_row(name, *(column.get(name, "-")[:8] for column in columns.values()))
    Console(width=120).print(table)


@pytest.mark.parametrize(
    ("counts", "kills", "documents", "task_bytes"),
    [
        ((1, 2), 1, 100, 5_000),
        pytest.param((1, 2, 4), 3, 20_000, 800_000, marks=pytest.mark.slow),
    ],
)
def test_every_shard_has_one_sha256_for_any_workers_and_kills(
    tokenizer, tmp_path, counts, kills, documents, task_bytes
):
    text = write_lines(tmp_path / "web.jsonl", documents)
    rng, columns = Random(1), {}
    for workers in counts:
        for times in (0, kills):
            out = tmp_path / f"{workers} workers {times} kills"
            words = command(text, tokenizer.path, out, workers, task_bytes)
            for _ in range(times):
                while not kill_during_job(words, out, rng):
                    shutil.rmtree(out)  # The job finished before the kill.
            shard_corpus(
                [str(text)],
                tokenizer=tokenizer.path,
                out=out,
                options=ShardOptions(**OPTIONS, task_bytes=task_bytes),
                workers=workers,
            )
            columns[f"{workers}, killed {times}×" if times else str(workers)] = hashes(out)
    show(columns)
    first = columns["1"]
    assert len([name for name in first if name.endswith(".tar")]) > 10
    assert all(column == first for column in columns.values())
