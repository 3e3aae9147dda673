"""What the nodes of a job must be able to read and write."""

from pathlib import Path

import pytest

from bigtrain.config import RunConfig, render_config
from bigtrain.plan.parameters import count_parameters
from bigtrain.runs.node_check_arguments import LOG_BYTES, node_check_arguments
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


def test_a_corpus_that_changed_since_the_submission_is_found(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path / "runs")
    arguments = node_check_arguments(config, config_file=tmp_path / "c.yaml", gpus_per_node=0)
    manifest = corpus / "train" / "manifest.json"
    before = manifest.read_bytes()
    manifest.write_bytes(before + b" ")
    try:
        problem = run_checks(arguments)["checks"]["data"]["problem"]
    finally:
        manifest.write_bytes(before)
    assert problem.startswith(f"{manifest} has sha256 ")


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
