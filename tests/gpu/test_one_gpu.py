"""One GPU, in bf16: the tiny model trains, resumes and exports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bigtrain.config import RunConfig, render_config
from bigtrain.track.metrics_file import read_metrics
from tests.runs import LLAMA, bert_config, tiny_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine"),
]


def _bigtrain(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", *words],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _train(config: RunConfig, folder: Path, *overrides: str) -> list[float]:
    file = folder / f"{config.name}.yaml"
    file.write_text(render_config(config))
    _bigtrain("launch", str(file), *overrides)
    return [line["loss"] for line in read_metrics(config.run_dir / "metrics.jsonl", "train")]


def _config(corpus: Path, runs: Path, name: str, device: str, precision: str) -> RunConfig:
    return tiny_config(
        corpus,
        runs,
        name=name,
        parallel={"device": device, "zero": 1},
        train={"precision": precision, "steps": 30},
        optim={"decay_steps": 30},
    )


def test_fp32_losses_on_the_gpu_are_close_to_those_on_the_cpu(corpus: Path, tmp_path: Path) -> None:
    gpu = _train(_config(corpus, tmp_path, "gpu", "cuda", "fp32"), tmp_path)
    cpu = _train(_config(corpus, tmp_path, "cpu", "cpu", "fp32"), tmp_path)
    assert gpu[:5] == pytest.approx(cpu[:5], abs=1e-3)


def test_losses_with_document_blocks_are_close_to_those_of_the_cpus_dense_mask(
    corpus: Path, tmp_path: Path
) -> None:
    losses = {}
    for device in ("cuda", "cpu"):
        config = _config(corpus, tmp_path, f"documents-{device}", device, "fp32")
        data = config.data.model_copy(update={"document_attention": True})
        losses[device] = _train(config.model_copy(update={"data": data}), tmp_path)
    assert losses["cuda"][:5] == pytest.approx(losses["cpu"][:5], abs=1e-3)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_losses_of_the_other_models_are_close_to_those_on_the_cpu(
    kind: str, corpus: Path, pair_corpus: Path, tmp_path: Path
) -> None:
    losses = {}
    for device in ("cuda", "cpu"):
        sections = {
            "name": f"{kind}-{device}",
            "parallel": {"device": device, "zero": 1},
            "train": {"steps": 5},
            "optim": {"decay_steps": 30},
        }
        config = (
            bert_config(pair_corpus, tmp_path, **sections)
            if kind == "bert"
            else tiny_config(corpus, tmp_path, model=LLAMA, **sections)
        )
        losses[device] = _train(config, tmp_path)
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=1e-3)


@pytest.mark.parametrize("parallel", [{"zero": 2}, {"zero": 3}, {"offload_optimizer": True}])
def test_all_zero_stages_give_the_same_losses_on_the_gpu(
    parallel: dict[str, int | bool], corpus: Path, tmp_path: Path
) -> None:
    first = _config(corpus, tmp_path, "first", "cuda", "fp32")
    parallel = {**first.parallel.model_dump(), **parallel}
    other = tiny_config(
        corpus, tmp_path, name="other", parallel=parallel, optim={"decay_steps": 30}
    )
    assert _train(other, tmp_path) == pytest.approx(_train(first, tmp_path), abs=1e-3)


def test_bf16_trains_resumes_and_exports(corpus: Path, tmp_path: Path) -> None:
    whole = _config(corpus, tmp_path, "whole", "cuda", "bf16")
    losses = _train(whole, tmp_path)
    assert losses[-1] < losses[0] - 0.5
    parts = _config(corpus, tmp_path, "parts", "cuda", "bf16")
    _train(parts, tmp_path, "train.steps=15")
    # Flash attention's backward adds in no fixed order, so bits may differ on a GPU.
    assert _train(parts, tmp_path) == pytest.approx(losses, abs=2e-2)
    out = tmp_path / "exported"
    assert "largest logit difference" in _bigtrain("export-hf", str(parts.run_dir), str(out))
    assert json.loads((out / "config.json").read_text())["model_type"] == "gpt2"
    assert _bigtrain("generate", str(out), "abc").startswith("abc")
