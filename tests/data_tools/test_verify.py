"""`data verify` names every fault with file, pack and byte, and changes nothing."""

import io
import json
import shutil
import tarfile
import zlib

import numpy as np
import pytest
from typer.testing import CliRunner

from data_tools.cli import app
from data_tools.errors import InputError
from data_tools.files import file_sha256, render_json
from data_tools.manifest import (
    InputInfo,
    Manifest,
    ShardInfo,
    TokenizerInfo,
    load_manifest,
    render_manifest,
    total_of,
)
from data_tools.tar_index import index_path, scan_tar
from data_tools.verify_corpus import rebuild_indexes, render_verification, verify_corpus
from tests.data_tools.small_texts import tree_bytes

LEVELS = ("header", "crc", "full")


@pytest.fixture
def damaged(tmp_path, sharded):
    """A copy of the training corpus, which tests may damage."""
    return shutil.copytree(sharded / "train", tmp_path / "train")


@pytest.fixture
def second(damaged):
    """The second tar of the copy."""
    return damaged / load_manifest(damaged).shards[1].file


def flip(path, offset, mask=1):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def member(tar, pack, kind):
    with tarfile.open(tar) as archive:
        return archive.getmember(f"{pack.key}.{kind}")


def lines(folder, level="crc"):
    return [fault.line for fault in verify_corpus(folder, level).faults]


def edit_manifest(folder, change):
    """Changes the manifest and corrects its totals."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    for name in values["totals"]:
        values["totals"][name] = sum(shard[name] for shard in values["shards"])
    path.write_bytes(render_json(values))


def write_corpus(folder, sharded, *, tokens, docs, sents=None):
    """Makes a corpus of one pack from arrays, which may be inconsistent."""
    arrays = {"docs": docs, "tokens": tokens} | ({} if sents is None else {"sents": sents})
    arrays = {name: np.array(values, "<i8") for name, values in arrays.items()}
    arrays["tokens"] = arrays["tokens"].astype("<u2")
    facts = {name: len(array) for name, array in arrays.items()}
    facts |= {f"{name}_crc32": zlib.crc32(array.tobytes()) for name, array in arrays.items()}
    folder.mkdir()
    tar = folder / "tokens-000000.tar"
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            add_member(archive, f"0.{name}.npy", content.getvalue())
        add_member(archive, "0.json", json.dumps(facts).encode())
    counts = {"docs": len(docs), "tokens": len(tokens), "sents": len(sents or [])}
    size = tar.stat().st_size
    shard = ShardInfo(file=tar.name, bytes=size, sha256=file_sha256(tar), packs=1, **counts)
    tokenizer = load_manifest(sharded / "train").tokenizer
    shutil.copy(sharded / "train" / tokenizer.file, folder)
    manifest = Manifest(
        name="tokens",
        split="train",
        tokenizer=TokenizerInfo(**tokenizer.model_dump()),
        dtype="uint16",
        shards=(shard,),
        totals=total_of((shard,)),
        inputs=(InputInfo(source="made up", documents=len(docs), bytes=0, skipped=0),),
        tool_version="0",
        seed=0,
    )
    (folder / "manifest.json").write_bytes(render_manifest(manifest))
    return folder


def add_member(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("workers", [1, 3])
def test_an_undamaged_corpus_has_no_fault_and_is_not_changed(damaged, level, workers):
    before = tree_bytes(damaged)
    result = verify_corpus(damaged, level, workers=workers)
    assert result.faults == ()
    assert len(result.shards) == len(load_manifest(damaged).shards)
    assert {shard.state for shard in result.shards} == {"intact"}
    assert tree_bytes(damaged) == before


@pytest.mark.parametrize("what", ["tokens", "docs"])
def test_a_flipped_bit_in_a_payload_is_found_by_its_crc32(damaged, second, what):
    pack = scan_tar(second)[1]
    offset = pack.tokens_offset if what == "tokens" else pack.docs_offset
    flip(second, offset + 3, 16)
    assert lines(damaged, "header") == []
    [line] = lines(damaged, "crc")
    assert line.startswith(f"{second.name}: pack {pack.key}: byte {offset}: the crc32 of {what} is")
    assert lines(damaged, "full") == [line]


def test_a_flipped_bit_in_a_tar_header_does_not_hide_later_faults(damaged, second):
    first, last = scan_tar(second)[0], scan_tar(second)[-1]
    header = member(second, first, "tokens.npy").offset
    flip(second, header + 5)
    flip(second, last.tokens_offset)
    of_header, of_tokens = lines(damaged)
    expected = f"{second.name}: byte {header}: the header of a tar member is damaged; restore it"
    assert of_header.startswith(expected)
    expected = f"{second.name}: pack {last.key}: byte {last.tokens_offset}: the crc32 of tokens"
    assert of_tokens.startswith(expected)


@pytest.mark.parametrize(
    ("mark", "mask", "how"),
    [
        (b"NUMPY", 1, "is damaged"),
        (b"descr", 1, "is damaged"),
        (b"}", 1, "is damaged"),
        (b"<u2", 2, "says >u2"),
        (b"), }", 4, "is damaged"),
        (b",)", 1, "is damaged"),
    ],
)
def test_a_flipped_bit_in_an_array_header_is_found_without_reading_tokens(
    damaged, second, mark, mask, how
):
    pack = scan_tar(second)[1]
    start = member(second, pack, "tokens.npy").offset_data
    flip(second, second.read_bytes().index(mark, start), mask)
    [line] = lines(damaged, "header")
    assert line.startswith(f"{second.name}: pack {pack.key}: byte {start}: the header of tokens")
    assert how in line


def test_damaged_metadata_of_a_pack_is_found(damaged, second):
    pack = scan_tar(second)[1]
    start = member(second, pack, "json").offset_data
    flip(second, start)
    [line] = lines(damaged, "header")
    assert line.startswith(f"{second.name}: pack {pack.key}: byte {start}: json is damaged")


def test_bits_outside_every_checksum_are_found_by_the_sha256(damaged, second):
    flip(second, second.stat().st_size - 1)
    assert lines(damaged, "crc") == []
    [line] = lines(damaged, "full")
    assert line.startswith(f"{second.name}: its sha256 is not the manifest's")


def test_a_truncated_tar_is_reported_with_both_sizes_and_the_position(damaged, second):
    pack = scan_tar(second)[1]
    size, cut = second.stat().st_size, pack.tokens_offset + 10
    with second.open("r+b") as file:
        file.truncate(cut)
    sizes, place = lines(damaged, "header")
    assert sizes.startswith(f"{second.name}: has {cut} bytes, not the manifest's {size}")
    expected = f"{second.name}: pack {pack.key}: byte {cut}: the file ends here, inside tokens.npy"
    assert place.startswith(expected)


@pytest.mark.parametrize("level", LEVELS)
def test_a_missing_shard_is_the_only_damaged_one(damaged, second, level):
    second.unlink()
    result = verify_corpus(damaged, level)
    assert [fault.line for fault in result.faults] == [
        f"{second.name}: is missing, and the manifest lists it; "
        "restore it from a good copy, or run the same `bigtrain data shard` again"
    ]
    states = [shard.state for shard in result.shards]
    assert states == ["intact", "damaged", *["intact"] * (len(states) - 2)]


def change_an_offset(path):
    values = json.loads(path.read_text())
    values["packs"][1]["tokens_offset"] += 64
    path.write_bytes(render_json(values))


def take_another(path):
    shutil.copy(index_path(path.with_name("tokens-000000.tar")), path)


@pytest.mark.parametrize(
    "damage",
    [change_an_offset, take_another, lambda path: path.write_text("[]")],
    ids=["an offset", "another tar's", "no index"],
)
def test_an_outdated_index_is_distinguished_from_a_damaged_tar_and_can_be_rebuilt(
    damaged, second, damage
):
    before = tree_bytes(damaged)
    damage(index_path(second))
    result = verify_corpus(damaged, "header")
    [fault] = result.faults
    assert fault.file == index_path(second).name
    assert f"`bigtrain data index {damaged}`" in fault.line
    assert result.shards[1].state == "intact, but its index is damaged"
    assert rebuild_indexes(damaged).made == (fault.file,)
    assert tree_bytes(damaged) == before


def test_a_missing_index_is_not_a_fault(damaged, second):
    index_path(second).unlink()
    assert lines(damaged) == []


def test_a_replaced_or_missing_tokenizer_is_reported(damaged):
    path = damaged / "tokenizer.model"
    flip(path, 100)
    [line] = lines(damaged, "header")
    assert line.startswith("tokenizer.model: is not the tokenizer that wrote this corpus")
    path.unlink()
    [line] = lines(damaged, "header")
    sha256 = load_manifest(damaged).tokenizer.sha256
    assert line == f"tokenizer.model: is missing; restore the one with sha256 {sha256}"


@pytest.mark.parametrize("name", ["packs", "docs", "tokens"])
def test_an_edited_count_in_the_manifest_is_reported_with_both_numbers(damaged, second, name):
    there = getattr(load_manifest(damaged).shards[1], name)
    edit_manifest(damaged, lambda values: values["shards"][1].update({name: there + 1}))
    [line] = lines(damaged, "header")
    expected = f"{second.name}: has {there} {name}, and the manifest says {there + 1}"
    assert line.startswith(expected)


def test_a_shard_missing_from_the_manifest_or_listed_twice_is_reported(damaged, second):
    edit_manifest(damaged, lambda values: values["shards"].pop(1))
    [line] = lines(damaged, "header")
    assert line.startswith(f"{second.name}: is not in the manifest; move it away")
    edit_manifest(damaged, lambda values: values["shards"].insert(1, values["shards"][0]))
    assert lines(damaged, "header")[0].startswith("manifest.json: lists tokens-000000.tar 2 times")


def test_a_manifest_that_does_not_add_up_is_refused_at_once(damaged):
    path = damaged / "manifest.json"
    values = json.loads(path.read_text())
    values["totals"]["tokens"] += 1
    path.write_bytes(render_json(values))
    with pytest.raises(InputError, match="totals are not the sum of the shards"):
        verify_corpus(damaged)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (
            {"tokens": [90, 2, 91, 92], "docs": [0, 2]},
            "document 1 does not end with eos (id 2); 1 such places",
        ),
        (
            {"tokens": [90, 2, 91, 2, 92, 2], "docs": [0, 2]},
            "document 1 has eos (id 2) before its end; 1 such places",
        ),
        ({"tokens": [90, 2, 9999, 2], "docs": [0, 2]}, "id 9999 is outside the vocabulary"),
        ({"tokens": [90, 2, 91, 2], "docs": [1, 2]}, "the start of document 0 is wrong"),
        ({"tokens": [90, 2, 91, 2], "docs": [0, 2, 2]}, "the start of document 2 is wrong"),
        ({"tokens": [90, 2, 91, 2], "docs": [0, 4]}, "the start of document 1 is wrong"),
        (
            {"tokens": [90, 2, 91, 2], "docs": [0, 2], "sents": [0, 1]},
            "a document starts inside a sentence",
        ),
        (
            {"tokens": [90, 2, 91, 2], "docs": [0, 2], "sents": [0, 2, 9]},
            "the start of sentence 2 is wrong",
        ),
    ],
)
def test_packs_with_inconsistent_numbers_are_reported(tmp_path, sharded, arrays, expected):
    folder = write_corpus(tmp_path / "corpus", sharded, **arrays)
    assert lines(folder, "header") == []
    [line] = lines(folder)
    assert line.startswith("tokens-000000.tar: pack 0: byte ")
    assert expected in line


def test_valid_sentence_starts_are_not_a_fault(tmp_path, sharded):
    arrays = {"tokens": [90, 91, 2, 91, 2], "docs": [0, 3], "sents": [0, 1, 3]}
    assert lines(write_corpus(tmp_path / "corpus", sharded, **arrays), "full") == []


def test_the_reported_byte_of_a_wrong_token_is_its_position_in_the_file(tmp_path, sharded):
    folder = write_corpus(tmp_path / "corpus", sharded, tokens=[90, 9999, 2], docs=[0])
    [fault] = verify_corpus(folder).faults
    with (folder / fault.file).open("rb") as file:
        file.seek(fault.offset)
        assert int.from_bytes(file.read(2), "little") == 9999


def test_the_reported_byte_of_a_wrong_start_is_its_position_in_the_file(tmp_path, sharded):
    folder = write_corpus(tmp_path / "corpus", sharded, tokens=[90, 2, 91, 2], docs=[0, 7])
    [fault] = verify_corpus(folder).faults
    with (folder / fault.file).open("rb") as file:
        file.seek(fault.offset)
        assert int.from_bytes(file.read(8), "little") == 7


def test_every_fault_is_reported_and_the_report_names_the_undamaged_shards(damaged, second):
    shards = load_manifest(damaged).shards
    flip(second, scan_tar(second)[0].tokens_offset)
    flip(second, scan_tar(second)[1].docs_offset)
    (damaged / shards[-1].file).unlink()
    flip(damaged / "tokenizer.model", 100)
    result = verify_corpus(damaged, workers=2)
    assert len(result.faults) == 4
    report = list(render_verification(result))
    assert report[0].startswith("tokenizer.model: is not")
    assert f"{shards[0].file}: intact" in report
    assert f"{second.name}: damaged" in report
    assert f"{len(shards) - 2} of {len(shards)} shards intact at level crc" in report[-1]


def test_the_command_prints_faults_and_ends_with_one_line(damaged, second):
    good = CliRunner().invoke(app, ["verify", str(damaged), "--level", "full"])
    assert good.exit_code == 0
    count = len(load_manifest(damaged).shards)
    assert f"to tokens-{count - 1:06d}.tar: {count} shards intact" in good.output
    flip(second, scan_tar(second)[0].tokens_offset)
    bad = CliRunner().invoke(app, ["verify", str(damaged)])
    assert "  tokens-000001.tar: pack 000001-00000: byte" in bad.output
    assert isinstance(bad.exception, InputError)
    assert "has 1 fault, 1 of" in str(bad.exception)
    assert "\n" not in str(bad.exception)


@pytest.mark.parametrize("workers", [0, -1])
def test_verifying_without_a_worker_is_refused(damaged, workers):
    with pytest.raises(InputError, match="workers"):
        verify_corpus(damaged, workers=workers)


def test_the_index_command_writes_missing_indexes_and_keeps_valid_ones(damaged, second):
    before = tree_bytes(damaged)
    index_path(second).unlink()
    shown = CliRunner().invoke(app, ["index", str(damaged)]).output
    count = len(load_manifest(damaged).shards)
    assert "tokens-000001.index.json: made again" in shown
    assert f"1 indexes made, {count - 1} good and unchanged" in shown
    assert tree_bytes(damaged) == before
    assert len(rebuild_indexes(damaged, everything=True).made) == count
    assert tree_bytes(damaged) == before


def test_no_index_is_made_for_a_tar_that_is_not_in_the_manifest(damaged, second):
    before = tree_bytes(damaged)
    last = damaged / load_manifest(damaged).shards[-1].file
    for path in (second, last):
        index_path(path).unlink()
    shutil.copy(damaged / "tokens-000000.tar", second)
    result = CliRunner().invoke(app, ["index", str(damaged)])
    assert "tokens-000001.tar is not the tar that the manifest lists" in result.output
    assert isinstance(result.exception, InputError)
    assert "1 of its tars cannot be indexed" in str(result.exception)
    assert not index_path(second).exists()
    assert index_path(last).read_bytes() == before[index_path(last).name]
    second.unlink()
    assert "is missing" in rebuild_indexes(damaged).refused[0]


def test_plain_webdataset_reads_a_corpus_with_sentences(tmp_path, sharded):
    from webdataset import WebDataset

    arrays = {"tokens": [90, 91, 2, 91, 2], "docs": [0, 3], "sents": [0, 1, 3]}
    folder = write_corpus(tmp_path / "corpus", sharded, **arrays)
    [sample] = WebDataset(str(folder / "tokens-000000.tar"), shardshuffle=False).decode()
    assert {name: sample[f"{name}.npy"].tolist() for name in arrays} == arrays
