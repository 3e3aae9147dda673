"""Files that bigtrain writes into its input folder are not read as text."""

import json
import shutil

import pyarrow
import pytest
import yaml
from webdataset.writer import TarWriter

from data_tools.cleaning.clean_config import CleanConfig
from data_tools.cleaning.clean_corpus import clean_corpus
from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.reading.left_out_files import LeftOut
from data_tools.reading.text_sources import find_sources, hash_sources
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from data_tools.tokenizer.build_tokenizer import build_tokenizer
from tests.data_tools.small_texts import tree_bytes, write_texts

OURS = "written by bigtrain"
EVERYTHING = {"folder_glob": "**/*"}
HASH_BEFORE = "508d39878b97bd8ff18ed51d5c6d1d31fd06cb908265d9a6d9d0bd152b2d7d10"


def names_in(folder, **options):
    left_out = LeftOut()
    sources = find_sources([str(folder)], left_out=left_out, **options)
    names = [file.name for source in sources for file in source.files]
    return names, {reason: row["files"] for reason, row in left_out.record().items()}


@pytest.fixture
def folder(tmp_path):
    return write_texts(tmp_path / "texts", 12)


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["known", "glob"])
def test_a_tokenizer_in_its_input_folder_does_not_change_the_job(folder, options):
    (folder / "a.pdf").write_bytes(b"%PDF")
    for number in range(8):
        lines = "".join(f"Line {line} of {number}: {line * 7}\n" for line in range(2800))
        (folder / f"long-{number}.txt").write_text(lines)
    # Two blocks of 64 KiB; with more input the sample would be different.
    settings = {"out": folder / "tok.model", "vocab_size": 380, "max_bytes": 131_082, **options}
    settings["exclude"] = ["*.pdf"] if options else []
    build_tokenizer([str(folder)], **settings)
    assert build_tokenizer([str(folder)], **settings).already_done
    note = json.loads((folder / "tok.model.json").read_bytes())
    assert sum(row["files"] for row in note["left_out"].values()) == 1


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["known", "glob"])
@pytest.mark.parametrize("place", ["corpus", "."])
def test_a_corpus_in_its_input_folder_is_resumed_to_the_same_bytes(
    folder, tokenizer, tmp_path, place, options
):
    own = folder / "tok.model"
    shutil.copy(tokenizer.path, own)
    own.with_name("tok.model.json").write_text('{"schema": "bigtrain-tokenizer/1"}')
    chosen = ShardOptions(task_bytes=1000, validation_percent=20, **options)
    settings = {"tokenizer": own, "options": chosen}
    before = tree_bytes(folder)
    shard_corpus([str(folder)], out=folder / place, **settings)
    finished = {name: it for name, it in tree_bytes(folder).items() if ".lock" not in name}
    assert shard_corpus([str(folder)], out=folder / place, **settings).already_done
    (folder / place / "tasks" / "000001.json").unlink()
    (folder / place / "train" / "manifest.json").unlink()
    assert not shard_corpus([str(folder)], out=folder / place, workers=2, **settings).already_done
    again = {name: it for name, it in tree_bytes(folder).items() if ".lock" not in name}
    assert again == finished
    assert before.items() <= again.items()


def test_cleaned_text_is_skipped_beside_its_input_and_read_if_it_is_the_only_text(folder, tmp_path):
    clean_corpus(CleanConfig(inputs=[str(folder)], out=str(folder / "clean")))
    names, left_out = names_in(folder)
    assert len(names) == 12
    assert not [name for name in names if name.startswith("clean/")]
    assert left_out[OURS] == 2  # The part file and the report.
    (tmp_path / "cleaned").mkdir()
    (folder / "clean").rename(tmp_path / "cleaned" / "web")
    assert names_in(tmp_path / "cleaned")[0] == ["web/part-000000.jsonl.zst"]
    assert names_in(tmp_path / "cleaned" / "web")[0] == ["part-000000.jsonl.zst"]


@pytest.mark.parametrize("link", [False, True])
def test_a_cleaning_job_in_its_input_folder_is_resumed_to_the_same_bytes(folder, tmp_path, link):
    out = folder / "clean"
    if link:
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    (folder / "a.pdf").write_bytes(b"%PDF")
    config = CleanConfig(inputs=[str(folder)], out=str(out), task_mb=0.001)
    first = clean_corpus(config)
    finished = tree_bytes(out)
    assert clean_corpus(config).already_done
    (out / "report.json").unlink()
    (out / "part-000001.jsonl.zst").unlink(missing_ok=True)
    assert clean_corpus(config).counts == first.counts
    assert tree_bytes(out) == finished
    report = json.loads((out / "report.json").read_bytes())
    assert report["left_out"] == {".pdf": {"files": 1, "example": "a.pdf"}}


def test_files_skipped_by_the_first_run_are_in_the_record_of_the_job(folder, tokenizer, tmp_path):
    (folder / "x.csv").write_text("a,b")
    out = tmp_path / "out"
    shard_corpus([str(folder)], tokenizer=tokenizer.path, out=out)
    assert json.loads((out / "tasks" / "left_out.json").read_bytes()) == {
        "schema": "bigtrain-left-out/1",
        "left_out": {".csv": {"files": 1, "example": "x.csv"}},
    }
    (folder / "y.csv").write_text("a,b")
    before = tree_bytes(out)
    assert shard_corpus([str(folder)], tokenizer=tokenizer.path, out=out).already_done
    assert tree_bytes(out) == before


def test_other_corpora_notes_runs_and_models_are_skipped(folder, sharded):
    names = names_in(folder)[0]
    shutil.copytree(sharded, folder / "old")
    shutil.copytree(sharded / "train", folder / "copy")
    (folder / "copy" / "manifest.json").unlink()  # Like an unfinished copy.
    (folder / "tok.model").write_text("a model")
    (folder / "tok.model.json").write_text('{\n "schema": "bigtrain-tokenizer/1"\n}')
    (folder / "run" / "logs").mkdir(parents=True)
    (folder / "run" / "config.yaml").write_text(yaml.dump({"name": "run"}))
    (folder / "run" / "attempts.jsonl").write_text('{"event": "start", "attempt": 1}\n')
    (folder / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "run" / "logs" / "rank-0.txt").write_text("a log")
    (folder / "step-00000001").mkdir()
    (folder / "step-00000001" / "state.json").write_text('{"schema": "bigtrain-checkpoint/1"}')
    (folder / "step-00000001" / "tensors.json").write_text("{}")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "model" / "tokenizer.json").write_text('{"added_tokens": []}')
    (folder / "model" / "special_tokens_map.json").write_text("{}")
    found, left_out = names_in(folder)
    assert found == names
    assert left_out["of a Hugging Face model"] == 3
    assert left_out[OURS] > 10
    assert names_in(f"file://{folder}")[0] == names


def test_a_corpus_as_input_is_refused(sharded, caplog):
    with pytest.raises(InputError, match="no text file found in"):
        find_sources([str(sharded / "train")])
    assert OURS in caplog.text


def test_every_kind_of_file_becomes_the_same_corpus_for_any_number_of_workers(tokenizer, tmp_path):
    texts = [f"Story {number} of a cat and {number * 7} dogs.\n" for number in range(90)]
    folder = tmp_path / "in"
    folder.mkdir()
    table = pyarrow.table({"text": texts[:30]})
    with pyarrow.ipc.new_file(folder / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    (folder / "b.json").write_text(json.dumps([{"text": text} for text in texts[30:60]], indent=1))
    with TarWriter(str(folder / "c.tar")) as tar:
        for number, text in enumerate(texts[60:]):
            tar.write({"__key__": f"{number:03d}", "txt": text, "jpg": b"\xff"})
    settings = {"tokenizer": tokenizer.path, "options": ShardOptions(task_bytes=700)}
    one = shard_corpus([str(folder)], out=tmp_path / "one", **settings)
    shard_corpus([str(folder)], out=tmp_path / "two", workers=2, **settings)
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")
    assert one.tasks > 3
    assert one.skipped_by_reason == {".jpg in a tar": 30}
    with open_corpus(tmp_path / "one" / "train") as corpus:
        assert [tokenizer.decode(ids) for ids in corpus.documents()] == texts


def test_the_hash_of_an_input_is_that_of_earlier_versions(tmp_path, monkeypatch):
    for name in ("b.txt", "a-b/x.txt", "a/x.jsonl", "a/y.json", "c.py", ".d/e.txt", "report.json"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"text": "{name}"}}\n')
    (tmp_path / "root/report.json").write_text('{\n  "schema": "bigtrain-clean/1"\n}\n')
    monkeypatch.chdir(tmp_path)
    sources = find_sources(["root", "root/*.py"])
    assert [source.label for source in sources] == ["root/**", "root/*.py"]
    # The hash of the version before links were followed; its jobs must be resumable.
    assert hash_sources(sources) == HASH_BEFORE
