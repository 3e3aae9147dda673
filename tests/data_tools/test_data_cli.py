"""The `bigtrain data` commands from text to corpus, and their imports."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import data_tools
from data_tools.cli import app
from data_tools.errors import InputError
from data_tools.inspect_corpus import inspect_corpus


def run(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    return result.output


def test_text_becomes_a_tokenizer_and_a_corpus_that_can_be_inspected(texts, tmp_path):
    model, out = tmp_path / "tokenizer.model", tmp_path / "corpus"
    assert "450 ids" in run("tokenizer", texts, "--vocab-size", 450, "--out", model)
    shard = ("shard", texts, "--tokenizer", model, "--out", out, "--validation-percent", 20)
    assert "60 documents" in run(*shard)
    assert "already done" in run(*shard)
    shown = run("inspect", out / "train", "--documents", 1)
    assert inspect_corpus(out / "train").manifest.fingerprint[:40] in shown.replace("\n", "")
    assert "Story" in shown
    assert "document 0" in shown
    assert "document 1" not in shown


def test_repeating_a_tokenizer_job_does_nothing_and_another_job_is_refused(texts, tmp_path):
    model = tmp_path / "tokenizer.model"
    command = ("tokenizer", texts, "--out", model, "--vocab-size")
    run(*command, 450)
    before = model.read_bytes()
    assert "already trained" in run(*command, 450)
    with pytest.raises(InputError, match="made with other vocab_size"):
        run(*command, 440)
    assert model.read_bytes() == before
    assert "440 ids" in run(*command, 440, "--force")


def test_a_tokenizer_of_unknown_origin_is_not_overwritten(texts, tmp_path):
    model = tmp_path / "tokenizer.model"
    model.write_bytes(b"mine")
    with pytest.raises(InputError, match="replace it with --force"):
        run("tokenizer", texts, "--out", model)
    assert model.read_bytes() == b"mine"


def test_inspection_refuses_a_tokenizer_that_did_not_make_the_corpus(sharded, tmp_path, texts):
    folder = shutil.copytree(sharded / "train", tmp_path / "train")
    run("tokenizer", texts, "--out", tmp_path / "other.model", "--vocab-size", 440)
    shutil.copy(tmp_path / "other.model", folder / "tokenizer.model")
    with pytest.raises(InputError, match="not the tokenizer this corpus was made with"):
        inspect_corpus(folder)


def test_no_module_loads_torch(tmp_path):
    names = sorted(path.stem for path in Path(data_tools.__file__).parent.glob("[!_]*.py"))
    code = (
        f"import importlib, sys\n"
        f"for name in {names}: importlib.import_module('data_tools.' + name)\n"
        f"assert not {{'torch', 'webdataset', 'transformers'}} & set(sys.modules)"
    )
    root = Path(data_tools.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_the_command_line_imports_almost_nothing():
    code = (
        "import sys, data_tools.cli\n"
        "assert not {'numpy', 'pydantic', 'sentencepiece'} & set(sys.modules)"
    )
    root = Path(data_tools.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
