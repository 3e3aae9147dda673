"""transformers 4 and 5 give the same ids, logits and pipeline results for an export.

Takes 36 s of CPU time, and downloads 16 MB for the older transformers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import transformers_users
from tests.distributed.test_export import export
from tests.ranks import run_ranks
from tests.runs import LLAMA, bert_config, tiny_config, train_rank

OLDER = ["transformers==4.57.1", "huggingface_hub==0.36.0", "tokenizers==0.22.1"]
SCALED = {
    **LLAMA,
    "rope_theta": 500000.0,
    "rope_scaling": {"factor": 4.0, "original_max_sequence_length": 16},
}
GPTS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "untied": {"tie_embeddings": False},
    "llama": {**LLAMA, "rope_theta": 500000.0},
    "scaled": SCALED,
    "qwen3": {**SCALED, "qk_norm": True, "biases": False},
}
SHORT = {"train": {"steps": 4}, "parallel": {"device": "cpu"}}

pytestmark = pytest.mark.slow


def older_transformers(folder: Path) -> Path:
    """Installs ``OLDER`` into a folder; skips the test if pip cannot."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*pip, *OLDER], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install {OLDER[0]}: {done.stderr.strip().splitlines()[-1]}")
    return folder


def use_exports(folders: list[Path], *paths: Path) -> dict[str, Any]:
    """The results of ``transformers_users.py`` for the exports in one version of transformers."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, transformers_users.__file__, *map(str, folders)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, root)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def both(
    corpus: Path, pair_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results of transformers 4.57 and of the installed version for one export per family."""
    folder = tmp_path_factory.mktemp("exports")
    configs = {
        # With large weights, a wrong rotary angle changes the logits measurably.
        name: tiny_config(corpus, folder / name, model={**model, "init_std": 0.2}, **SHORT)
        for name, model in GPTS.items()
    }
    configs["bert"] = bert_config(pair_corpus, folder / "bert", **SHORT)
    exports = []
    for name, config in configs.items():
        run_ranks(train_rank, 1, config)
        exports.append(run_ranks(export, 1, config.run_dir, folder / f"{name}-exported")[0].folder)
    older = use_exports(exports, older_transformers(folder / "older"))
    newer = use_exports(exports)
    assert older["version"].startswith("4.") and newer["version"].startswith("5.")
    return older["uses"], newer["uses"]


def test_both_versions_give_the_same_ids_logits_and_texts(both: Any) -> None:
    older, newer = both
    assert len(older) == len(GPTS) + 1
    for folder, found in newer.items():
        assert older[folder]["logits"] == pytest.approx(found["logits"], abs=1e-5), folder
        for what in ("calls", "text", "said"):
            assert older[folder][what] == found[what], (folder, what)


def test_both_versions_read_special_tokens_from_text(both: Any) -> None:
    for found in both[0].values():
        special, text, chat = (call["input_ids"] for call in found["calls"][-3:])
        assert 2 in special and 2 not in text
        assert chat[-1] == 2
