"""`bigtrain generate RUN` exports each checkpoint once, and uses only what was verified."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from tests.distributed.generation_calls import VARIED, call
from tests.ranks import run_ranks
from tests.runs import bert_config, make_corpus, modification_times, tiny_config, train_rank

USED = "verified when it was exported; nothing was converted"
MADE = "with the checkpoint's logits and tokenizer; the next call uses it"
SHORT = ("abc", "--max-new-tokens", "12")


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run with checkpoints of the steps 4, 8 and 12."""
    config = tiny_config(
        corpus,
        tmp_path_factory.mktemp("runs"),
        model=VARIED,
        train={"steps": 12},
        checkpoint={"every": 4, "keep_last": 3},
    )
    run_ranks(train_rank, 1, config)
    return config


@pytest.fixture
def run(trained: RunConfig, tmp_path: Path) -> Path:
    """A copy of the run, without exports."""
    shutil.copytree(trained.run_dir, tmp_path / "tiny", ignore=shutil.ignore_patterns("exported"))
    return tmp_path / "tiny"


def generate(*places: Path) -> list[tuple[int, str, str]]:
    return run_ranks(call, 1, *(["generate", place, *SHORT] for place in places))[0]


def exports(run: Path) -> list[str]:
    """The steps and hashes of the kept exports; each has its record."""
    names = sorted(each.name for each in (run / "exported").iterdir() if each.is_dir())
    records = sorted(each.stem for each in (run / "exported").glob("*.json"))
    assert names == records
    assert all(re.fullmatch(r"step-\d{8}-[0-9a-f]{16}", name) for name in names)
    return names


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def test_the_second_call_converts_nothing(run: Path) -> None:
    [first] = generate(run)
    written = modification_times(run / "exported")
    # An export would fail now, because a file of weights is missing.
    (weights,) = checkpoint(run, 12).glob("rank-*.bin")
    size = weights.stat().st_size
    weights.write_bytes(b"\0" * size)
    again, named = generate(run, checkpoint(run, 12))
    assert first[0] == again[0] == named[0] == 0
    assert MADE in first[2] and USED in again[2] and USED in named[2]
    assert first[1] == again[1] == named[1]
    assert first[1].startswith("abc") and first[1].count("\n") >= 1
    now = modification_times(run / "exported")
    records = {path for path in now if path.parent.name == "exported"}
    assert {p: t for p, t in now.items() if p not in records} == {
        p: t for p, t in written.items() if p not in records
    }


def test_each_checkpoint_has_its_export_and_the_two_used_last_are_kept(run: Path) -> None:
    own = [run / "exported/final", run / "exported/.git"]
    for folder in own:
        folder.mkdir(parents=True)
    steps = [checkpoint(run, step) for step in (4, 8, 4, 12, 4)]
    found = generate(*steps)
    for folder in own:
        folder.rmdir()  # A user's own folders stay.
    assert [code for code, _, _ in found] == [0] * 5
    assert [MADE in err for _, _, err in found] == [True, True, False, True, False]
    assert [name[:13] for name in exports(run)] == ["step-00000004", "step-00000012"]
    removed = [err for _, _, err in found if "removed " in err]
    assert len(removed) == 1 and "step-00000008" in removed[0]
    assert len({out for _, out, _ in found}) >= 2


def test_another_checkpoint_of_the_same_step_makes_a_new_export(run: Path, tmp_path: Path) -> None:
    other = make_corpus(tmp_path / "other", seed=1)
    config = tiny_config(
        other, tmp_path / "others", model=VARIED, train={"steps": 12}, checkpoint={"every": 12}
    )
    run_ranks(train_rank, 1, config)
    [before] = generate(run)
    shutil.rmtree(checkpoint(run, 12))
    shutil.copytree(checkpoint(config.run_dir, 12), checkpoint(run, 12))
    [after] = generate(run)
    [expected] = generate(config.run_dir)
    assert MADE in after[2] and after[1] == expected[1] != before[1]
    assert len(exports(run)) == 2
    tokenizer = checkpoint(run, 12) / "tokenizer.model"
    tokenizer.write_bytes(tokenizer.read_bytes()[:-1] + b"x")
    [(code, out, err)] = generate(checkpoint(run, 12))
    assert (code, out) == (2, "") and "was changed after it was committed" in err


@pytest.mark.parametrize("damage", ["tokenizer.json", "model.safetensors", "unfinished", "extra"])
def test_an_export_that_changed_is_made_again(run: Path, damage: str) -> None:
    [first] = generate(run)
    [name] = exports(run)
    folder = run / "exported" / name
    if damage == "unfinished":
        folder.with_name(f"{name}.json").unlink()
    elif damage == "extra":
        (folder / "adapter_config.json").write_text("{}")
    else:
        content = (folder / damage).read_bytes()
        (folder / damage).write_bytes(content[:-3] + b"   ")
    left = run / "exported" / f".{name}-killed"
    left.mkdir()
    [second] = generate(run)
    expected = "it was not finished" if damage == "unfinished" else "was changed after it was"
    assert expected in second[2] and MADE in second[2]
    assert second[1] == first[1]
    assert exports(run) == [name] and not left.exists()
    assert not (folder / "adapter_config.json").exists()


def test_an_export_that_differs_is_refused_and_leaves_nothing(run: Path) -> None:
    [(code, out, err)] = run_ranks(call_with_wrong_rules, 1, ["generate", run, *SHORT])[0]
    assert (code, out) == (2, "") and "logits differ" in err and err.count("\n") == 1
    assert exports(run) == []
    assert [each.name for each in (run / "exported").iterdir()] == ["lock"]


def call_with_wrong_rules(*commands: Any) -> Any:
    """`call`, with queries and keys swapped in exports; for ``run_ranks``."""
    from bigtrain.convert.mapping import FusedQkv

    right = FusedQkv.to_hugging_face
    FusedQkv.to_hugging_face = lambda self, tensor: right(self, tensor).roll(1, -1)  # type: ignore[method-assign]
    return call(*commands)


def test_a_checkpoint_outside_of_a_run_is_exported_for_one_call(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(checkpoint(run, 12), alone)
    found = generate(alone, run)
    assert found[0][1] == found[1][1]
    assert "for this call only, with the checkpoint's logits and tokenizer" in found[0][2]
    assert {each.name for each in alone.iterdir()} == {
        each.name for each in checkpoint(run, 12).iterdir()
    }


def test_a_bert_is_refused_before_anything_is_exported_and_fills_masks(
    pair_corpus: Path, tmp_path: Path, run: Path
) -> None:
    config = bert_config(pair_corpus, tmp_path / "berts", train={"steps": 4})
    run_ranks(train_rank, 1, config)
    bert = config.run_dir
    refused, gpt = run_ranks(
        call, 1, ["generate", bert, "abc"], ["generate", run, "abc", "--fill-mask", "3"]
    )[0]
    assert refused[0] == gpt[0] == 2
    assert "a bert predicts masked tokens and cannot continue a text; fill masks with" in refused[2]
    assert "a gpt does not predict masked tokens" in gpt[2]
    assert not (bert / "exported").exists() and not (run / "exported").exists()
    masked = "abc<mask> def<mask>"
    text, lines, unmasked, long = run_ranks(
        call,
        1,
        ["generate", bert, masked, "--fill-mask", "3"],
        ["generate", bert, masked, "--fill-mask", "3", "--json"],
        ["generate", bert, masked, "abc", "--fill-mask", "3"],
        ["generate", bert, "abc <mask>" * 40, "--fill-mask", "3"],
    )[0]
    values = json.loads(lines[1])
    assert run_ranks(pipeline_guesses, 1, next((bert / "exported").glob("step-*/")), masked)[0] == [
        [guess["token"] for guess in mask] for mask in values["masks"]
    ]
    assert text[1].splitlines()[0] == masked and len(text[1].splitlines()) == 3
    assert all(guess["token"] for mask in values["masks"] for guess in mask)
    assert unmasked[0] == 2 and "prompt 2 has no <mask> to fill" in unmasked[2]
    assert long[0] == 2 and "the model reads at most 32 tokens" in long[2]


def pipeline_guesses(folder: Path, text: str) -> list[list[str]]:
    """What transformers' pipeline puts at each mask; for ``run_ranks``."""
    from transformers import pipeline

    found = pipeline("fill-mask", model=str(folder), top_k=3)(text)
    return [[guess["token_str"] for guess in mask] for mask in found]
