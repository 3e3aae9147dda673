"""A config that the machine cannot compute is refused before process groups or models are made."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import ConfigError, RunConfig, render_config
from bigtrain.config.device_rules import find_device_problems
from bigtrain.parallel import device_check
from bigtrain.parallel.device_check import check_device
from tests.runs import tiny_config

NO_DROPOUT = "model.dropout=0.1: on a GPU, attention inside documents has no dropout; "
NOT_INSTALLED = "train.kernels=transformer_engine: Transformer Engine is not installed; install "
ENGINE = {"kernels": "transformer_engine"}


def _config(device: str = "cpu", **sections: Any) -> RunConfig:
    parallel = {"device": device}
    return tiny_config(Path("corpus"), Path("runs"), parallel=parallel, **sections)


@pytest.mark.parametrize(
    "data", [{"packing": "bestfit"}, {"packing": "pad"}, {"document_attention": True}]
)
def test_dropout_within_documents_is_refused_only_on_a_gpu(data: dict[str, Any]) -> None:
    config = _config("cuda", model={"dropout": 0.1}, data=data)
    with pytest.raises(ConfigError, match=NO_DROPOUT):
        check_device(config)
    assert find_device_problems(config, "cpu") == []
    check_device(_config("cuda", data=data))
    check_device(_config("cuda", model={"dropout": 0.1}))


@pytest.mark.parametrize("is_installed", [True, False])
def test_transformer_engine_must_be_installed_and_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, is_installed: bool
) -> None:
    monkeypatch.setattr(device_check, "find_spec", lambda _: is_installed or None)
    with pytest.raises(ConfigError, match="Transformer Engine computes on GPUs only; set"):
        check_device(_config("cpu", train=ENGINE))
    if is_installed:
        check_device(_config("cuda", train=ENGINE))
        return
    with pytest.raises(ConfigError, match=NOT_INSTALLED):
        check_device(_config("cuda", train=ENGINE))


@pytest.mark.parametrize(
    "command", [["launch"], ["train"], ["train-rank"], ["parity"]], ids=lambda words: words[0]
)
def test_commands_refuse_such_a_config_in_one_line(
    corpus: Path, tmp_path: Path, command: list[str]
) -> None:
    data = {"document_attention": True}
    config = tiny_config(
        corpus, tmp_path, model={"dropout": 0.1}, data=data, parallel={"device": "cuda"}
    )
    file = tmp_path / "run.yaml"
    file.write_text(render_config(config))
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", *command, str(file)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"bigtrain: {NO_DROPOUT}") and done.stderr.count("\n") == 1


def test_a_config_that_any_device_can_compute_is_checked_without_torch() -> None:
    check = """
        import sys
        from pathlib import Path
        from bigtrain.config import load_run_config
        from bigtrain.parallel.device_check import check_device
        check_device(load_run_config(["configs/gpt/tiny.yaml"]))
        sys.exit("torch" in sys.modules)
    """
    words = [line.strip() for line in check.splitlines()]
    subprocess.run([sys.executable, "-c", "\n".join(words)], check=True)
