"""Sample tables: every target occurs once, rows are well filled, and damage is named."""

import json
import random
import shutil
import tempfile
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from data_tools.commands import samples as samples_command
from data_tools.errors import InputError
from data_tools.jobs.output_folder import only_writer
from data_tools.samples import build_sample_table as job
from data_tools.samples.build_sample_table import build_sample_table
from data_tools.samples.plan_rows import plan_bestfit
from data_tools.samples.sample_table import load_sample_table, table_folder
from tests.data_tools.sample_corpora import (
    FIRST_WORD,
    LENGTH,
    document_ranges,
    load_table,
    read_all,
    write_corpus,
    write_mixed_corpus,
)
from tests.data_tools.small_texts import tree_bytes


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory) -> Path:
    return write_mixed_corpus(tmp_path_factory.mktemp("corpus") / "train")


@pytest.fixture
def own_corpus(tmp_path, corpus_folder) -> Path:
    """A copy of the corpus without any table."""
    return shutil.copytree(
        corpus_folder, tmp_path / "train", ignore=shutil.ignore_patterns("samples")
    )


@pytest.mark.parametrize("mode", ["bestfit", "pad"])
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any),
    length=st.integers(1, 20),
)
def test_every_input_with_its_target_occurs_exactly_once(mode, lengths, length):
    with tempfile.TemporaryDirectory() as scratch:
        documents = [[[FIRST_WORD] * count] for count in lengths]
        folder = write_corpus(Path(scratch) / "train", documents, sentences=False)
        build_sample_table(folder, mode=mode, sequence_length=length)
        with load_table(folder, mode, length) as table:
            found = read_all(table)
        ranges = document_ranges(folder)
    expected = [place for start, stop in ranges for place in range(start, stop - 1)]
    inputs = [
        place
        for start, size in zip(found.starts.tolist(), found.lengths.tolist(), strict=True)
        for place in range(start, start + size)
    ]
    assert sorted(inputs) == expected
    starts = [start for start, _ in ranges]
    for start, size in zip(found.starts.tolist(), found.lengths.tolist(), strict=True):
        assert start + size < ranges[bisect_right(starts, start) - 1][1]
    assert np.add.reduceat(found.lengths, found.offsets[:-1]).max() <= length


def free_space_by_hand(lengths: list[int], capacity: int) -> list[int]:
    """The free space of rows after a plain best-fit decreasing."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [space for space in free if space >= length]
        if fitting:
            free.remove(min(fitting))
        free.append((min(fitting) if fitting else capacity) - length)
    return sorted(free)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), capacity=st.integers(1, 40))
def test_bestfit_fills_rows_as_best_fit_decreasing_does(data, capacity):
    lengths = data.draw(st.lists(st.integers(1, capacity), min_size=1, max_size=60))
    packing = plan_bestfit(np.array(lengths, dtype=np.int32), capacity=capacity)
    assert sorted(packing.order.tolist()) == list(range(len(lengths)))
    used = np.add.reduceat(np.array(lengths)[packing.order], packing.rows[:-1])
    assert sorted((capacity - used).tolist()) == free_space_by_hand(lengths, capacity)
    smallest, *others = sorted(used.tolist())
    assert not others or smallest + others[0] > capacity, "two rows would fit in one"


def test_documents_shorter_than_a_row_are_not_split(corpus_folder):
    build_sample_table(corpus_folder, mode="bestfit", sequence_length=LENGTH)
    with load_table(corpus_folder, "bestfit") as table:
        found = read_all(table)
    pieces = dict(zip(found.starts.tolist(), found.lengths.tolist(), strict=True))
    for start, stop in document_ranges(corpus_folder):
        if 1 < stop - start <= LENGTH + 1:
            assert pieces[start] == stop - start - 1


def test_best_fit_leaves_little_free_space(corpus_folder):
    packed = build_sample_table(corpus_folder, mode="bestfit", sequence_length=256)
    padded = build_sample_table(corpus_folder, mode="pad", sequence_length=256)
    assert packed.manifest.statistics["utilisation"] > 0.99
    assert padded.manifest.statistics["utilisation"] < 0.7
    with load_table(corpus_folder, "bestfit", 256) as table:
        filled = read_all(table).lengths.sum() / (table.num_samples * 256)
    assert packed.manifest.statistics["utilisation"] == pytest.approx(filled, abs=1e-6)


def test_samples_are_read_in_any_order_by_any_thread(corpus_folder):
    build_sample_table(corpus_folder, mode="bestfit", sequence_length=LENGTH)
    with load_table(corpus_folder, "bestfit") as table:
        whole = read_all(table)
        wanted = [random.Random(n).choices(range(table.num_samples), k=20) for n in range(50)]
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(lambda numbers: table.read(np.array(numbers)), wanted))
    for numbers, found in zip(wanted, read, strict=True):
        for place, number in enumerate(numbers):
            here = slice(found.offsets[place], found.offsets[place + 1])
            there = slice(whole.offsets[number], whole.offsets[number + 1])
            assert found.starts[here].tolist() == whole.starts[there].tolist()
            assert found.lengths[here].tolist() == whole.lengths[there].tolist()


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path, own_corpus):
    other = shutil.copytree(own_corpus, tmp_path / "other")
    third = shutil.copytree(own_corpus, tmp_path / "third")
    for mode in ("bestfit", "pad", "pairs"):
        for folder, seed in ((own_corpus, 1), (other, 1), (third, 2)):
            build_sample_table(folder, mode=mode, sequence_length=LENGTH, seed=seed)
        name = Path("samples", f"{mode}-{LENGTH}")
        assert tree_bytes(own_corpus / name) == tree_bytes(other / name)
        same = tree_bytes(own_corpus / name) == tree_bytes(third / name)
        assert same == (mode != "pairs")


def test_a_finished_table_is_not_changed(own_corpus):
    first = build_sample_table(own_corpus, mode="pairs", sequence_length=LENGTH)
    before = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    again = build_sample_table(own_corpus, mode="pairs", sequence_length=LENGTH)
    assert again.already_done and not first.already_done
    assert again.fingerprint == first.fingerprint
    assert {file: file.stat().st_mtime_ns for file in first.folder.iterdir()} == before


def test_other_parameters_are_refused_with_the_old_and_new_values(own_corpus):
    build_sample_table(own_corpus, mode="pairs", sequence_length=LENGTH)
    before = tree_bytes(own_corpus)
    with pytest.raises(InputError, match=r"copies \(1 → 2\), seed \(0 → 4\): nothing was"):
        build_sample_table(own_corpus, mode="pairs", sequence_length=LENGTH, seed=4, copies=2)
    assert tree_bytes(own_corpus) == before


def test_a_failed_job_leaves_no_files_and_can_run_again(own_corpus, monkeypatch):
    expected = build_sample_table(own_corpus, mode="bestfit", sequence_length=LENGTH)
    whole = tree_bytes(expected.folder)
    shutil.rmtree(expected.folder)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(job, "plan_bestfit", fail)
        with pytest.raises(OSError, match="No space left"):
            build_sample_table(own_corpus, mode="bestfit", sequence_length=LENGTH)
    assert not expected.folder.exists()
    with monkeypatch.context() as patch:
        patch.setattr(job, "render_samples_manifest", fail)
        with pytest.raises(OSError, match="No space left"):
            build_sample_table(own_corpus, mode="bestfit", sequence_length=LENGTH)
    with pytest.raises(InputError, match="has no table of bestfit samples"):
        load_table(own_corpus, "bestfit")
    build_sample_table(own_corpus, mode="bestfit", sequence_length=LENGTH)
    assert tree_bytes(expected.folder) == whole


def test_files_of_a_killed_job_are_removed(tmp_path, own_corpus):
    fresh = shutil.copytree(own_corpus, tmp_path / "fresh")
    folder = table_folder(own_corpus, mode="pairs", sequence_length=LENGTH)
    folder.mkdir(parents=True)
    (folder / ".spill.123.part").write_bytes(b"half a pair")
    (folder / ".rows.npy.123.part").write_bytes(b"half a header")
    (folder / "starts.npy").write_bytes(b"finished, but of an unfinished table")
    build_sample_table(own_corpus, mode="pairs", sequence_length=LENGTH)
    build_sample_table(fresh, mode="pairs", sequence_length=LENGTH)
    assert tree_bytes(own_corpus / "samples") == tree_bytes(fresh / "samples")


def test_a_second_writer_is_refused(own_corpus):
    with (
        only_writer(own_corpus / "samples"),
        pytest.raises(InputError, match="another process is writing"),
    ):
        build_sample_table(own_corpus, mode="pad", sequence_length=LENGTH)


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([[[80] * 9]], {"mode": "pairs"}, "only one document with text"),
        ([[[80] * 9], []], {"mode": "pairs"}, "only one document with text"),
        ([[], []], {"mode": "bestfit"}, "no document has the two tokens"),
        ([[], []], {"mode": "pad"}, "no document has the two tokens"),
        ([[[80]], [[81]]], {"mode": "pairs", "sequence_length": 7}, "sequence length 7 is out of"),
        ([[[80]], [[81]]], {"mode": "pad", "copies": 2}, "copies 2 is only for pairs"),
        ([[[80]], [[81]]], {"mode": "pairs", "copies": 0}, "copies 0 must be at least 1"),
        ([[[80]], [[81]]], {"mode": "pairs", "seed": -1}, "seed -1 is negative"),
    ],
)
def test_a_table_without_samples_is_refused(tmp_path, documents, options, message):
    folder = write_corpus(tmp_path / "train", documents)
    with pytest.raises(InputError, match=message) as raised:
        build_sample_table(folder, **{"sequence_length": LENGTH, **options})
    assert "\n" not in str(raised.value)
    assert not list((folder / "samples").glob("*"))[1:], "only the lock may exist"


def test_a_missing_table_names_the_command_that_makes_it(own_corpus):
    command = f"bigtrain data samples {own_corpus} --mode bestfit --sequence-length 2048`"
    with pytest.raises(InputError) as raised:
        load_table(own_corpus, "bestfit", 2048)
    assert command in str(raised.value)


def test_a_table_of_another_corpus_is_refused(own_corpus):
    build_sample_table(own_corpus, mode="pad", sequence_length=LENGTH)
    with pytest.raises(InputError, match="made for another corpus"):
        load_sample_table(
            own_corpus, mode="pad", sequence_length=LENGTH, corpus_fingerprint="f" * 64
        )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "starts.npy").unlink(), "starts.npy is missing, and the manifest"),
        (lambda f: (f / "rows.npy").write_bytes(b"short"), "rows.npy has 5 bytes, not the"),
        (lambda f: edit(f, schema="bigtrain-samples/2"), "schema 'bigtrain-samples/2'"),
        (lambda f: edit(f, num_samples=3), "rows.npy has int64"),
        (lambda f: edit(f, num_segments="many"), "num_segments: Input should be"),
        (lambda f: edit(f, mode="bestfit"), "but its folder has another name"),
        (lambda f: edit(f, files={}), "lists no rows.npy"),
        (lambda f: (f / "manifest.json").write_bytes(b"{"), "is not JSON"),
        (lambda f: overwrite(f / "lengths.npy", 0, b"XXXXXX"), "lengths.npy is damaged"),
        (lambda f: overwrite(f / "lengths.npy", 131, b"\x7f"), "lengths.npy is damaged"),
        (lambda f: overwrite(f / "rows.npy", 143, b"\x7f"), "rows.npy is damaged"),
    ],
)
def test_damage_is_named_in_one_line(own_corpus, damage, message):
    folder = build_sample_table(own_corpus, mode="pad", sequence_length=LENGTH).folder
    damage(folder)
    with pytest.raises(InputError, match=message) as raised, load_table(own_corpus, "pad") as table:
        read_all(table)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def test_a_flipped_bit_is_found_by_reading_everything(own_corpus):
    folder = build_sample_table(own_corpus, mode="pad", sequence_length=LENGTH).folder
    with load_table(own_corpus, "pad") as table:
        table.check_content()
    overwrite(folder / "starts.npy", 136, b"\x07")
    with (
        load_table(own_corpus, "pad") as table,
        pytest.raises(InputError, match=r"starts.npy is damaged"),
    ):
        table.check_content()


def test_a_table_with_a_truncated_file_is_made_again(own_corpus):
    result = build_sample_table(own_corpus, mode="pad", sequence_length=LENGTH)
    before = tree_bytes(result.folder)
    (result.folder / "starts.npy").write_bytes(b"short")
    assert not build_sample_table(own_corpus, mode="pad", sequence_length=LENGTH).already_done
    assert tree_bytes(result.folder) == before


def test_the_command_describes_the_table(own_corpus):
    app = samples_command.typer.Typer()
    app.command()(samples_command.samples)
    options = ["--mode", "pairs", "--sequence-length", str(LENGTH)]
    made = CliRunner().invoke(app, [str(own_corpus), *options])
    again = CliRunner().invoke(app, [str(own_corpus), *options])
    assert made.exit_code == again.exit_code == 0
    assert f"{own_corpus}/samples/pairs-{LENGTH}: made in" in made.output
    assert "% random" in made.output
    assert "already made" in again.output


def edit(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def overwrite(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)
