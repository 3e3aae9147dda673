"""What the nodes of a job must be able to read and write."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtrain.config import RunConfig, render_config
from bigtrain.plan.parameters import count_parameters
from bigtrain.runs.node_check_arguments import (
    DATA_FILES,
    LOG_BYTES,
    node_check_arguments,
    render_data_files,
)
from launcher.preflight.checks import run_checks
from tests.runs import make_corpus, tiny_config


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def _problems(config: RunConfig, folder: Path) -> dict[str, str]:
    file = folder / "config-job.yaml"
    file.write_text(render_config(config))
    arguments = node_check_arguments(config, config_file=file, gpus_per_node=0)
    checks = run_checks(arguments)["checks"]
    return {name: check["problem"] for name, check in checks.items() if check["problem"]}


def _checkpoint_bytes(config: RunConfig, folder: Path) -> int:
    arguments = node_check_arguments(config, config_file=folder / "c.yaml", gpus_per_node=0)
    each = 12 * count_parameters(config.model).padded_total
    count, rest = divmod(arguments["folders"][1]["bytes"] - LOG_BYTES, each)
    assert rest == 0
    return count


def test_a_node_that_has_the_corpus_the_tokenizer_and_the_disk_is_good(
    corpus: Path, tmp_path: Path
) -> None:
    assert _problems(tiny_config(corpus, tmp_path / "runs"), tmp_path) == {}


def _record(config: RunConfig) -> None:
    (config.run_dir / DATA_FILES).write_text(render_data_files(config))


@pytest.fixture
def changed_corpus(corpus: Path) -> Iterator[Path]:
    """Changes the manifest of the training corpus when the test asks for it, and restores it."""
    manifest = corpus / "train" / "manifest.json"
    before = manifest.read_bytes()
    yield manifest
    manifest.write_bytes(before)


def test_a_corpus_that_changed_since_the_submission_is_found(
    corpus: Path, changed_corpus: Path, tmp_path: Path
) -> None:
    config = tiny_config(corpus, tmp_path / "runs")
    config.run_dir.mkdir(parents=True)
    _record(config)
    assert _problems(config, tmp_path) == {}
    changed_corpus.write_bytes(changed_corpus.read_bytes() + b" ")
    assert _problems(config, tmp_path)["data"].startswith(f"{changed_corpus} has sha256 ")
    _record(config)
    assert _problems(config, tmp_path) == {}


def test_a_damaged_record_does_not_count(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path / "runs")
    config.run_dir.mkdir(parents=True)
    for damaged in ("", "{", "[]", "{}"):
        (config.run_dir / "data-files.json").write_text(damaged)
        assert _problems(config, tmp_path) == {}


def test_the_disk_needs_room_for_the_checkpoints_that_are_kept(
    corpus: Path, tmp_path: Path
) -> None:
    def config(**checkpoint: int) -> RunConfig:
        return tiny_config(
            corpus, tmp_path / "runs", train={"steps": 100}, checkpoint={"every": 10, **checkpoint}
        )

    assert _checkpoint_bytes(config(), tmp_path) == 1
    assert _checkpoint_bytes(config(keep_last=3), tmp_path) == 4
    assert _checkpoint_bytes(config(keep_last=50), tmp_path) == 10
    folder = config().run_dir / "checkpoints"
    for step in (10, 20):
        (folder / f"step-{step:08d}").mkdir(parents=True)
    assert _checkpoint_bytes(config(keep_last=3), tmp_path) == 2
    assert _checkpoint_bytes(config(keep_last=1), tmp_path) == 1


def test_all_paths_are_absolute(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config(corpus, Path("runs"))
    found = node_check_arguments(config, config_file=Path("config.yaml"), gpus_per_node=8)
    paths = [found["config"], *(e["path"] for k in ("folders", "files", "tars") for e in found[k])]
    assert all(Path(path).is_absolute() for path in paths)
    assert found["gpus"] == 8
    assert len(paths) == 1 + 2 + 4 + 2


def test_corpora_and_checkpoints_at_urls_are_left_out(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path / "runs", checkpoint={"dir": "memory://runs"})
    found = node_check_arguments(config, config_file=tmp_path / "c.yaml", gpus_per_node=0)
    assert [folder["path"] for folder in found["folders"]] == [str(config.run_dir)]
