"""A cleaning job in passes and parts gives the bytes of a job that one process runs."""

import multiprocessing
import shutil
from pathlib import Path

import pytest

from data_tools.cleaning.clean_corpus import clean_corpus
from data_tools.cleaning.clean_parts import (
    find_all_duplicates,
    scan_part,
    seal_parts,
    write_part,
)
from data_tools.errors import InputError
from data_tools.jobs.array_part import ArrayPart
from data_tools.jobs.output_folder import only_writer
from tests.data_tools.cleaning.documents import (
    change_words,
    make_config,
    random_prose,
    write_json_lines,
)
from tests.data_tools.small_texts import tree_bytes


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """Documents of eight tasks; copies are in other tasks than their originals."""
    import random

    rng = random.Random(2)
    good = [random_prose(rng, words=150) for _ in range(20)]
    texts = [*good[:10], change_words(good[1], rng, count=2), *good[10:], good[3], good[18]]
    folder = tmp_path_factory.mktemp("pages")
    return write_json_lines(folder / "pages.jsonl", [{"text": text} for text in texts])


@pytest.fixture(scope="module")
def alone(pages, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("alone") / "out"
    result = clean_corpus(config_of(pages, out))
    assert {"exact_duplicates", "near_duplicates"} <= {*result.counts.dropped}
    return tree_bytes(out)


def config_of(pages: Path, out: Path, **options):
    return make_config(pages, out, task_mb=0.003, **options)


def run_parts(function, config, count: int) -> None:
    fork = multiprocessing.get_context("fork")
    parts = [
        fork.Process(target=function, args=(config, ArrayPart(index, count)))
        for index in range(count)
    ]
    for process in parts:
        process.start()
    for process in parts:
        process.join()
    assert [process.exitcode for process in parts] == [0] * count


def test_passes_of_parts_that_run_at_the_same_time_give_the_bytes_of_one_process(
    pages, alone, tmp_path
):
    config = config_of(pages, tmp_path / "out")
    run_parts(scan_part, config, 3)
    assert find_all_duplicates(config).fresh
    run_parts(write_part, config, 4)  # Another number of parts than in the pass before.
    assert not seal_parts(config).already_done
    assert tree_bytes(tmp_path / "out") == alone
    assert seal_parts(config).already_done
    assert tree_bytes(tmp_path / "out") == alone


def test_a_repeated_pass_does_nothing(pages, alone, tmp_path):
    config = config_of(pages, tmp_path / "out")
    for function in (scan_part, scan_part):
        results = [function(config, ArrayPart(index, 2)) for index in range(2)]
    assert [result.fresh for result in results] == [0, 0]
    find_all_duplicates(config)
    assert not find_all_duplicates(config).fresh
    assert write_part(config, ArrayPart(0, 1)).fresh
    assert not write_part(config, ArrayPart(0, 1)).fresh
    assert not scan_part(config, ArrayPart(0, 1)).fresh
    seal_parts(config)
    assert tree_bytes(tmp_path / "out") == alone


def test_each_pass_names_what_the_one_before_has_not_done(pages, tmp_path):
    config = config_of(pages, tmp_path / "out")
    scan_part(config, ArrayPart(0, 2))
    unscanned = r"tasks are not scanned \(000001, .*--only scan --task 1/2, or once without --only"
    with pytest.raises(InputError, match=unscanned):
        find_all_duplicates(config)
    with pytest.raises(InputError, match=unscanned):
        write_part(config, ArrayPart(1, 2))
    with pytest.raises(InputError, match=unscanned):
        seal_parts(config)
    scan_part(config, ArrayPart(1, 2))
    with pytest.raises(InputError, match=r"the duplicates are not found yet: .*--only duplicates"):
        write_part(config, ArrayPart(1, 2))
    find_all_duplicates(config)
    write_part(config, ArrayPart(1, 2))
    with pytest.raises(InputError, match=r"tasks are not written \(000000, .*--only write --task"):
        seal_parts(config)
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_job_without_parts_finishes_one_that_began_in_parts(pages, alone, tmp_path):
    config = config_of(pages, tmp_path / "out")
    scan_part(config, ArrayPart(1, 3))
    clean_corpus(config)
    assert tree_bytes(tmp_path / "out") == alone


@pytest.mark.parametrize("lost", ["part-000002.jsonl.zst", ".tasks/000002.json"])
def test_a_part_that_was_lost_is_written_again(pages, alone, tmp_path, lost):
    config = config_of(pages, tmp_path / "out")
    scan_part(config, ArrayPart(0, 1))
    find_all_duplicates(config)
    write_part(config, ArrayPart(0, 1))
    (tmp_path / "out" / lost).unlink()
    with pytest.raises(InputError, match=r"1 of \d+ tasks are not scanned \(000002\)"):
        seal_parts(config)
    assert scan_part(config, ArrayPart(0, 1)).fresh == 1
    assert write_part(config, ArrayPart(0, 1)).fresh == 1
    seal_parts(config)
    assert tree_bytes(tmp_path / "out") == alone


def test_a_part_is_refused_while_another_process_writes(pages, tmp_path):
    config = config_of(pages, tmp_path / "out")
    with (
        only_writer(tmp_path / "out"),
        pytest.raises(InputError, match="another process is writing"),
    ):
        scan_part(config, ArrayPart(0, 2))
    shutil.rmtree(tmp_path / "out")
    scan_part(config, ArrayPart(0, 2))
    with pytest.raises(InputError, match=r"belongs to a job with other .*length.min_words"):
        scan_part(config_of(pages, tmp_path / "out", length={"min_words": 3}), ArrayPart(1, 2))
