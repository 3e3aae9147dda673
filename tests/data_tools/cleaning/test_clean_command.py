"""`data clean` reads its recipe, refuses a wrong one in one line, and its output can be sharded."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bigtrain.config import ConfigError, load_config
from data_tools.cleaning.clean_config import CleanConfig
from data_tools.cleaning.clean_report import render_report
from data_tools.cleaning.document_counts import Counts, Tally
from data_tools.cli import app
from data_tools.corpus import open_corpus
from tests.data_tools.cleaning.documents import random_prose, read_parts, write_json_lines

RECIPE = "configs/data/clean.yaml"


def run(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    return result.output


def load(*overrides: str) -> CleanConfig:
    return load_config([RECIPE, *overrides], CleanConfig)


@pytest.fixture
def pages(tmp_path) -> Path:
    import random

    rng = random.Random(0)
    records = [{"body": random_prose(rng)} for _ in range(5)] + [{"body": "Short."}]
    return write_json_lines(tmp_path / "pages.jsonl", records)


def test_the_recipe_names_every_key_with_its_default():
    given = load().model_dump()
    defaults = CleanConfig(inputs=["corpora/raw"], out="corpora/clean", workers=2).model_dump()
    assert given == defaults

    import yaml

    text = yaml.safe_load(Path(RECIPE).read_text())
    assert text.keys() == defaults.keys()
    for name, section in defaults.items():
        if isinstance(section, dict):
            assert text[name].keys() == section.keys()


def test_a_single_input_or_exclusion_needs_no_list():
    config = load("inputs=texts", "exclude='*/tests/*'")
    assert (config.inputs, config.exclude) == (["texts"], ["*/tests/*"])


def test_the_report_fits_a_terminal_and_splits_no_word():
    counts = Counts(
        documents=1_234_567,
        kept=1_000_000,
        dropped={
            "gopher_repetition.duplicate_paragraph_characters": Tally(documents=200_000),
            "empty": Tally(documents=3, example="web/pages-00017.jsonl.zst line 123456"),
        },
        skipped={"empty": Tally(documents=30)},
        changed={"unicode.control_characters": Tally(documents=123_456, changes=999_999)},
    )
    terminal = Console(width=80, file=io.StringIO())
    terminal.print(render_report(counts))
    shown = terminal.file.getvalue()
    for whole in (
        "gopher_repetition.",
        "duplicate_paragraph_",
        "unicode.control_",
        "line 123456",
        "1,000,000",
    ):
        assert f" {whole} " in shown
    assert "dropped │ empty after cleaning" in shown
    assert "skipped │ empty in the input" in shown


def test_the_recipe_for_english_web_pages_is_stricter():
    config = load_config(["configs/data/clean-english-web.yaml"], CleanConfig)
    assert config.c4_lines.enabled
    assert config.gopher_quality.min_stop_words == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("length.min_wrods=3", "length.min_wrods=3: there is no such key; did you mean"),
        ("length.min_words=0", "length.min_words=0: give 1 or more"),
        ("length.min_words=200000", "length.min_words=200000 is above length.max_words=100000"),
        ("near_duplicates.bands=7", "bands=7 does not divide near_duplicates.num_perm=128"),
        ("near_duplicates.threshold=1.5", "near_duplicates.threshold=1.5: give 1 or less"),
        ("gopher_quality.max_bullet_lines=often", "max_bullet_lines='often': give a number"),
        ("inputs=[]", "inputs"),
        ("inputs=3", "inputs=3"),
        ("unicode.nfc=NFC", "unicode.nfc='NFC': give true or false"),
        (
            "redact.patterns=[{name: a, pattern: '(x'}]",
            "redact.patterns.0.pattern='(x': not a regular expression",
        ),
        ("redact.patterns=[{name: a, pattern: 'x*'}]", "matches the empty text too"),
        ("redact.patterns=[{name: email, pattern: 'x'}]", "has the name email twice"),
    ],
)
def test_a_bad_config_is_one_line_with_the_key(override, message):
    with pytest.raises(ConfigError) as error:
        load(override)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_shows_its_report_and_says_if_the_job_is_already_done(pages, tmp_path):
    out = tmp_path / "out"
    command = ("clean", RECIPE, f"inputs=['{pages}']", f"out='{out}'", "text_field=body")
    shown = run(*command, "workers=1")
    assert "5 of 6 documents kept" in shown
    assert "length.min_words" in shown
    assert "already done" in run(*command, "workers=2")
    assert len(read_parts(out)) == 5


def test_the_cleaned_folder_becomes_a_corpus(pages, tokenizer, tmp_path):
    out, corpus = tmp_path / "out", tmp_path / "corpus"
    run("clean", RECIPE, f"inputs=['{pages}']", f"out='{out}'", "text_field=body", "workers=1")
    shard = ("shard", out, "--text-field", "text")
    assert "5 documents" in run(*shard, "--tokenizer", tokenizer.path, "--out", corpus)
    with open_corpus(corpus / "train") as opened:
        assert opened.manifest.num_documents == 5


def test_a_recipe_without_existing_inputs_is_refused(tmp_path, monkeypatch):
    shutil.copytree("configs/data", tmp_path / "configs/data")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="corpora/raw is not a file, folder or glob"):
        run("clean", RECIPE)
    assert not (tmp_path / "corpora").exists()
