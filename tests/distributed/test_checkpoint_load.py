"""`checkpoint.load`: a new run starts from another run's checkpoint, or only from its weights."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bigtrain.checkpoint.commit import open_state
from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import KINDS, CheckpointError, read_state
from bigtrain.checkpoint.storage_folder import open_folder
from bigtrain.config import ConfigError, RunConfig, load_run_config, render_config
from bigtrain.runs.report_figures import read_report
from bigtrain.runs.report_table import render_next_commands
from bigtrain.runs.resume_checks import check_run
from bigtrain.track.metrics_file import read_metrics
from tests.distributed.steps import engine_of
from tests.ranks import RankError, run_ranks
from tests.runs import hash_tensors, make_corpus, tiny_config, train_rank

MODEL = {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "vocab_size": 500, "dropout": 0.1}


def _config(corpus: Path, runs: Path, **sections: Any) -> RunConfig:
    values: dict[str, Any] = {
        "train": {"steps": 10},
        "optim": {"decay_steps": 20},
        "validation": {"every": 100},
        "guard": {"window": 16},
        **sections,
        "model": {**MODEL, **sections.get("model", {})},
        "checkpoint": {"every": 4, **sections.get("checkpoint", {})},
    }
    return tiny_config(corpus, runs, **values)


@pytest.fixture(scope="module")
def source(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of 10 steps, from whose checkpoints other runs start."""
    config = _config(corpus, tmp_path_factory.mktemp("source"), name="source")
    run_ranks(train_rank, 1, config)
    return config


def _checkpoint(run: RunConfig, step: int) -> str:
    return str(run.run_dir / "checkpoints" / f"step-{step:08d}")


@pytest.fixture
def fork(source: RunConfig, corpus: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes the config of a run that starts from the source's step 4, or from another place."""

    def make(place: str | None = None, *, weights_only: bool = False, **sections: Any) -> RunConfig:
        load = {"load": place or _checkpoint(source, 4), "load_weights_only": weights_only}
        checkpoint = {"checkpoint": {**load, **sections.pop("checkpoint", {})}}
        return _config(corpus, tmp_path, name="fork", **checkpoint, **sections)

    return make


def _starts(config: RunConfig) -> list[dict[str, Any]]:
    lines = (config.run_dir / "attempts.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "start"]


def test_a_fork_continues_like_its_source_and_then_resumes_from_its_own_checkpoints(
    fork: Callable[..., RunConfig], source: RunConfig
) -> None:
    config = fork()
    check_run(config)
    run_ranks(train_rank, 1, config)
    theirs = read_metrics(source.run_dir / "metrics.jsonl", "train")[4:]
    ours = read_metrics(config.run_dir / "metrics.jsonl", "train")
    for name in ("step", "loss", "grad_norm", "learning_rate", "samples", "tokens"):
        assert [line[name] for line in ours] == [line[name] for line in theirs]
    bits = [hash_tensors(_checkpoint(run, 10), KINDS) for run in (config, source)]
    assert bits[0] == bits[1]
    states = [open_state(open_folder(_checkpoint(run, 10))) for run in (config, source)]
    assert states[0].guard == states[1].guard
    assert len(states[0].guard) > 0
    assert states[0].optimizer_steps == 10
    # The next command that `report` prints is valid.
    commands = render_next_commands(read_report(config.run_dir), exported=None).splitlines()
    longer = next(line for line in commands if "name=fork-long" in line)
    assert load_run_config(shlex.split(longer.partition("launch ")[2])).checkpoint.load is None
    # The loaded checkpoint no longer exists and the layout differs: neither matters for a resume.
    again = fork("nowhere", train={"steps": 12}, parallel={"zero": 1, "device": "cpu"})
    check_run(again)
    assert run_ranks(train_with_log, 2, again)[0] == [
        f"resumed from {_checkpoint(config, 10)}, at step 10",
        "checkpoint.load is ignored: the run has checkpoints of its own",
    ]
    assert [(each["step"], each["checkpoint"]) for each in _starts(config)] == [
        (4, _checkpoint(source, 4)),
        (10, _checkpoint(config, 10)),
    ]


def train_with_log(config: RunConfig) -> list[str]:
    """Trains; returns rank 0's log lines about the start point; for ``run_ranks``."""
    import logging

    lines: list[str] = []
    logger = logging.getLogger("bigtrain.train")
    logger.setLevel(logging.INFO)
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    train_rank(config)
    return [line for line in lines if re.match("resumed|began|checkpoint.load", line)]


def test_loading_only_weights_starts_another_run(
    fork: Callable[..., RunConfig], source: RunConfig, tmp_path: Path
) -> None:
    config = fork(
        str(source.run_dir),
        weights_only=True,
        seed=8,
        data={
            "train": str(_reshard(source, tmp_path) / "train"),
            "validation": None,
            "sequence_length": 16,
        },
        model={"dropout": 0.0},
        train={"steps": 2, "global_batch_size": 4},
        optim={"learning_rate": 1e-3, "warmup_steps": 2, "decay_steps": 20},
    )
    check_run(config)
    run_ranks(train_rank, 1, config)
    lines = read_metrics(config.run_dir / "metrics.jsonl", "train")
    assert [(line["step"], line["samples"]) for line in lines] == [(1, 4), (2, 8)]
    assert [line["learning_rate"] for line in lines] == [5e-4, 1e-3]
    state = read_state(open_folder(_checkpoint(config, 2)))
    assert (state.optimizer_steps, state.tokens) == (2, 2 * 4 * 16)
    assert _starts(config)[0]["checkpoint"] == _checkpoint(source, 10)
    assert _starts(config)[0]["step"] == 0
    # The weights are two small steps from the source's, and far from the seed's initial weights.
    theirs, ours = (
        CheckpointReader(open_folder(place))
        for place in (_checkpoint(source, 10), _checkpoint(config, 2))
    )
    for name in theirs.names("weight"):
        distance = abs(theirs.read_tensor("weight", name) - ours.read_tensor("weight", name))
        assert 0 < distance.max() < 3e-3


def _reshard(source: RunConfig, folder: Path) -> Path:
    """Makes another corpus with the same tokenizer."""
    from data_tools.sharding.shard_corpus import shard_corpus
    from data_tools.sharding.shard_options import ShardOptions

    (folder / "texts").mkdir()
    for number in range(20):
        (folder / "texts" / f"{number}.txt").write_text(f"abc def {number} ghi. " * 60)
    tokenizer = folder / "tokenizer.model"
    shutil.copy(Path(_checkpoint(source, 10)) / "tokenizer.model", tokenizer)
    corpus = folder / "other"
    options = ShardOptions(validation_percent=10)
    shard_corpus([str(folder / "texts")], tokenizer=tokenizer, out=corpus, options=options)
    return corpus


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"seed": 8},
            "continuing from checkpoint.load would change seed from 7 to 8; set the values",
        ),
        ({"seed": 8}, "or load only its weights (checkpoint.load_weights_only=true)"),
        ({"model": {"num_layers": 4}}, "would change model.num_layers from 2 to 4; set"),
        ({"optim": {"beta1": 0.8}}, "would change optim.beta1 from 0.9 to 0.8; set back what"),
        ({"optim": {"beta1": 0.8}}, "accept with --accept-change optim.beta1"),
        (
            {"data": {"shuffle": "windows"}},
            "or load only the weights (checkpoint.load_weights_only",
        ),
        ({"train": {"steps": 4}}, "is of step 4 already; raise train.steps=4"),
    ],
)
def test_a_fork_with_a_changed_identity_is_refused_before_it_starts(
    sections: dict[str, Any], message: str, fork: Callable[..., RunConfig]
) -> None:
    if "optim" in sections:
        sections = {"optim": {"decay_steps": 20, **sections["optim"]}}
    config = fork(**sections)
    with pytest.raises(ConfigError) as caught:
        check_run(config)
    assert message in str(caught.value)
    assert "another name" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not config.run_dir.exists()


def test_a_deliberate_change_of_a_fork_is_accepted_by_name(fork: Callable[..., RunConfig]) -> None:
    config = fork(optim={"decay_steps": 20, "beta1": 0.8})
    check_run(config, accepted=["optim.beta1"])
    with pytest.raises(ConfigError, match=r"no flag accepts another value; load only the weights"):
        check_run(config, accepted=["seed"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"num_layers": 4},
            "this model .* model.num_layers is 4, in the checkpoint 2; set",
        ),
        (
            {"hidden_size": 16, "positions": "rope"},
            "model.hidden_size is 16, in the checkpoint 32; m",
        ),
    ],
)
def test_weights_of_another_size_are_refused_before_it_starts(
    model: dict[str, Any], message: str, fork: Callable[..., RunConfig]
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_run(fork(weights_only=True, model=model))


@pytest.mark.parametrize("weights_only", [False, True])
def test_another_tokenizer_is_refused(
    weights_only: bool, fork: Callable[..., RunConfig], tmp_path: Path
) -> None:
    other = make_corpus(tmp_path / "other", documents=12, seed=5)
    data = {"train": str(other / "train"), "validation": str(other / "validation")}
    with pytest.raises(ConfigError, match=r"was trained with tokenizer \w{12}, .*leave checkpoint"):
        check_run(fork(weights_only=weights_only, data=data))


def load_into(config: RunConfig, checkpoint: str, changes: list[dict[str, Any]]) -> list[str]:
    """Loads into models that differ; returns the error messages; for ``run_ranks``."""
    from bigtrain.checkpoint.loading import load_checkpoint

    said = []
    for weights_only in (True, False):
        for change in changes:
            model = config.model.model_copy(update=change)
            other = config.model_copy(update={"model": model})
            with engine_of(other) as (engine, _, _):
                try:
                    load_checkpoint(open_folder(checkpoint), engine, weights_only=weights_only)
                except CheckpointError as error:
                    said.append(str(error))
    return said


def test_the_first_tensor_with_another_shape_is_named(source: RunConfig) -> None:
    changes = [{"hidden_size": 16}, {"num_layers": 4}, {"num_layers": 1}]
    said = run_ranks(load_into, 1, source, _checkpoint(source, 4), changes)[0]
    assert len(said) == 6
    for shape, missing, extra in (said[:3], said[3:]):
        assert re.search(r"tensor weight/\S+ has shape \(.*32.*\), the model's is \(.*16", shape)
        assert re.search(r"tensor weight/\S*layers\.2\S* is missing", missing)
        assert re.search(r"tensor \w+/\S*layers\.1\S* is not in the model", extra)
    assert not any("\n" in line for line in said)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nothing", "nothing: neither a checkpoint nor a run folder with one"),
        ("dangling", "dangling: a link to .*gone, which is not there"),
        ("torn", r"COMMIT\.json cannot be read as JSON"),
        ("marked", r"COMMIT\.json is missing; use another checkpoint"),
        ("faulty:///unreachable", "StoreDown: the store is down"),
    ],
)
def test_a_place_that_cannot_be_loaded_is_a_one_line_error(
    place: str, message: str, fork: Callable[..., RunConfig], source: RunConfig, tmp_path: Path
) -> None:
    from tests import stores  # noqa: F401 - registers faulty://

    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    for name in ("torn", "marked"):
        shutil.copytree(_checkpoint(source, 4), tmp_path / name)
    (tmp_path / "torn" / "COMMIT.json").write_bytes(b"{")
    (tmp_path / "marked" / "COMMIT.json").unlink()
    config = fork(place if "://" in place else str(tmp_path / place))
    with pytest.raises(CheckpointError, match=message) as caught:
        check_run(config)
    assert "\n" not in str(caught.value)
    assert not config.run_dir.exists()


def test_a_flipped_bit_in_the_loaded_checkpoint_ends_the_run_before_step_1(
    fork: Callable[..., RunConfig], source: RunConfig, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(_checkpoint(source, 4), bad)
    data = bytearray((bad / "rank-00000.bin").read_bytes())
    data[5000] ^= 1
    (bad / "rank-00000.bin").write_bytes(data)
    config = fork(str(bad))
    with pytest.raises(RankError, match=r"bad/rank-00000\.bin: the bytes of \S+ at \d+ fail their"):
        run_ranks(train_rank, 1, config)
    assert (bad / "COMMIT.json").is_file()
    assert not (config.run_dir / "checkpoints").exists()


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/checkpoints", "{}/checkpoints/latest"])
def test_a_checkpoint_is_named_by_path_url_run_folder_or_link(
    form: str, fork: Callable[..., RunConfig], source: RunConfig, tmp_path: Path
) -> None:
    run = tmp_path / "source"
    shutil.copytree(source.run_dir, run)
    (run / "checkpoints" / "latest").symlink_to("step-00000010")
    shutil.rmtree(run / "checkpoints" / "step-00000008")
    with pytest.raises(ConfigError, match=r"is of step 10 already"):
        check_run(fork(form.format(run)))
    check_run(fork(form.format(run), train={"steps": 12}))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 3])
def test_a_fork_in_another_layout_continues_at_the_same_sample(
    zero: int, fork: Callable[..., RunConfig], source: RunConfig
) -> None:
    config = fork(
        train={"steps": 5, "micro_batch_size": 1},
        parallel={"tensor": 1, "zero": zero, "device": "cpu"},
    )
    run_ranks(train_rank, 2, config)
    step = read_metrics(config.run_dir / "metrics.jsonl", "train")[0]
    theirs = read_metrics(source.run_dir / "metrics.jsonl", "train")[4]
    assert step["step"] == theirs["step"] == 5
    assert step["samples"] == theirs["samples"]


@pytest.mark.slow
def test_a_fork_starts_with_bigtrain_launch(source: RunConfig, tmp_path: Path) -> None:
    file = tmp_path / "source.yaml"
    file.write_text(render_config(source))
    words = [sys.executable, "-m", "bigtrain.cli", "launch", str(file)]
    words += ["name=fork", f"checkpoint.load={_checkpoint(source, 8)}", f"runs_dir={tmp_path}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def launch(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*words, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            env=environment,
            check=False,
        )

    refused = launch("seed=8")
    assert refused.returncode == 2
    assert "continuing from checkpoint.load would change seed from 7 to 8" in refused.stdout
    assert len(refused.stdout.splitlines()) == 1
    done = launch()
    assert done.returncode == 0, done.stdout
    assert f"started from {_checkpoint(source, 8)}, at step 8" in done.stdout
    ends = [
        hash_tensors(place, KINDS)
        for place in (tmp_path / "fork/checkpoints/step-00000010", _checkpoint(source, 10))
    ]
    assert ends[0] == ends[1]
