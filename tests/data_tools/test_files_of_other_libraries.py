"""Files written by Hugging Face `datasets`, Polars and webdataset become the same corpus.

Slow: takes 20 s, and downloads the first two into a folder, because only this test needs them.
"""

import importlib
import json
import lzma
import subprocess
import sys

import pytest
from webdataset.writer import TarWriter

from data_tools.corpus import open_corpus
from data_tools.sharding.shard_corpus import shard_corpus

TEXTS = [f"Story {number} of a cat and {number * 7} dogs.\n" for number in range(60)]

pytestmark = pytest.mark.slow


# Installed with --no-deps, because their other dependencies are already installed.
PACKAGES = ["datasets", "dill<0.4.1", "multiprocess<0.70.19", "pandas", "python-dateutil", "six"]
PACKAGES += ["polars", "polars-runtime-32"]


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Installs the packages into a folder; skips the test if pip cannot."""
    folder = tmp_path_factory.mktemp("packages")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*pip, *PACKAGES], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install {PACKAGES[0]}: {done.stderr.strip().splitlines()[-1]}")
    with pytest.MonkeyPatch.context() as patch:
        # At the end of the path, so that installed packages are preferred.
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        importlib.invalidate_caches()
        yield


def write_datasets(folder):
    import datasets

    datasets.disable_caching()
    rows = datasets.Dataset.from_dict({"text": TEXTS, "n": list(range(len(TEXTS)))})
    datasets.DatasetDict(train=rows).save_to_disk(str(folder), num_shards={"train": 3})
    datasets.enable_caching()
    loaded = datasets.load_from_disk(str(folder))
    loaded.map(lambda row: {"text": row["text"] + "!"})  # Leaves a cache in the folder.
    assert any(folder.rglob("cache-*.arrow"))


def write_polars(folder, name):
    import polars

    folder.mkdir()
    frame = polars.DataFrame({"text": TEXTS})
    match name:
        case "parquet":
            frame.write_parquet(folder / "a.parquet")
        case "categories":
            frame.cast(polars.Categorical).write_parquet(folder / "a.parquet")
        case "ipc":
            frame.write_ipc(folder / "a.arrow", compression="zstd")
        case "stream":
            frame.write_ipc_stream(folder / "a.arrow")
        case "ndjson":
            frame.write_ndjson(folder / "a.ndjson")
        case "json":
            frame.write_json(folder / "a.json")


def write_tars(folder):
    folder.mkdir()
    for number, texts in enumerate((TEXTS[:30], TEXTS[30:])):
        with TarWriter(str(folder / f"s-{number:03d}.tar")) as tar:
            for row, text in enumerate(texts):
                tar.write({"__key__": f"{row:03d}", "txt": text, "jpg": b"\xff\xd8"})


def write_xz(folder):
    folder.mkdir()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (folder / "a.jsonl.xz").write_bytes(lzma.compress(lines.encode()))


POLARS = ("parquet", "categories", "ipc", "stream", "ndjson", "json")


@pytest.mark.parametrize("writer", ["datasets", "webdataset", "xz", *POLARS])
def test_files_of_other_libraries_become_a_corpus_of_the_same_documents(
    request, tokenizer, tmp_path, writer
):
    folder = tmp_path / "in"
    if writer in ("datasets", *POLARS):
        request.getfixturevalue("others")
    match writer:
        case "datasets":
            write_datasets(folder)
        case "webdataset":
            write_tars(folder)
        case "xz":
            write_xz(folder)
        case _:
            write_polars(folder, writer)
    result = shard_corpus([str(folder)], tokenizer=tokenizer.path, out=tmp_path / "out")
    assert result.documents == len(TEXTS)
    with open_corpus(tmp_path / "out" / "train") as corpus:
        assert [tokenizer.decode(ids) for ids in corpus.documents()] == TEXTS
