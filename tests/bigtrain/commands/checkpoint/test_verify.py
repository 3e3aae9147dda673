"""`checkpoint verify` finds every changed byte, and names every fault."""

import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest

from bigtrain.checkpoint.storage_folder import DiskFolder
from bigtrain.checkpoint.tensor_table import SavedBox, SavedTensor
from bigtrain.commands.checkpoint.box_coverage import (
    box_fault,
    coverage_faults,
    file_coverage_faults,
)
from bigtrain.commands.checkpoint.verify import verify_checkpoint
from data_tools import progress
from tests.bigtrain.commands.checkpoint.conftest import Command
from tests.bigtrain.commands.checkpoint.damage import (
    change_json,
    commit_again,
    flip_bit,
    save_in_one_piece,
)


@pytest.fixture
def checkpoint(run: Path) -> Path:
    """The newest checkpoint of the run."""
    return run / "checkpoints" / "step-00000006"


def _box(offset: tuple[int, ...], shape: tuple[int, ...], start: int = 0) -> SavedBox:
    return SavedBox(offset, shape, "rank-00000.bin", start, 4 * math.prod(shape), 0)


def test_the_newest_or_all_checkpoints_of_a_run_are_verified(
    run: Path, checkpoint: Path, command: Command
) -> None:
    exit_code, [line] = command("verify", run)
    assert exit_code == 0
    assert line.startswith(f"{checkpoint}: complete: step 6, 84 tensors, ")
    assert line.endswith(", all values finite")
    exit_code, lines = command("verify", run, "--all", "--workers", 2)
    assert exit_code == 0
    assert [line.split(": ")[2].split(",")[0] for line in lines] == ["step 6", "step 4", "step 2"]


def test_a_url_and_a_renamed_checkpoint_are_verified(checkpoint: Path, command: Command) -> None:
    other = checkpoint.rename(checkpoint.with_name("kept"))
    for place in (other, f"file://{other}"):
        assert command("verify", place)[0] == 0
    flip_bit(other / "rank-00001.bin", 5)
    exit_code, lines = command("verify", f"file://{other}")
    assert exit_code == 1
    assert "rank-00001.bin: " in lines[0]
    assert lines[-1] == f"file://{other}: not complete: 1 fault; use another checkpoint"


def test_a_long_verification_reports_progress(
    checkpoint: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    _, lines = command("verify", checkpoint)
    assert re.match(r"verifying step-00000006: 100%, [\d,.]+ MB/s, 0 s left$", lines[-1])


def _flips(file: Path, count: int) -> list[int]:
    """Positions in a file: both ends, and random ones."""
    size = file.stat().st_size
    return [0, size - 1, *random.Random(file.name).choices(range(size), k=count)]


@pytest.mark.parametrize(
    "name",
    [
        *("COMMIT.json", "state.json", "tensors.json"),
        *("tokenizer.model", "rank-00000.bin", "rank-00001.bin"),
    ],
)
def test_a_change_of_any_bit_of_any_file_is_found(name: str, checkpoint: Path) -> None:
    chance = random.Random(name)
    file, folder = checkpoint / name, DiskFolder(checkpoint)
    for position in _flips(file, count=60 if name == "COMMIT.json" else 15):
        bit = chance.randrange(8)
        flip_bit(file, position, bit)
        faults = verify_checkpoint(folder).faults
        assert any(str(file) in fault for fault in faults), f"bit {bit} of byte {position}"
        flip_bit(file, position, bit)
    assert not verify_checkpoint(folder).faults


@pytest.mark.parametrize(("old", "new"), [(b'"crc32"', b'"crc33"'), (b"}\n", b"} "), (b"{", b"{ ")])
def test_a_reformatted_marker_with_equal_content_is_found(
    old: bytes, new: bytes, checkpoint: Path
) -> None:
    marker = checkpoint / "COMMIT.json"
    marker.write_bytes(marker.read_bytes().replace(old, new, 1))
    assert verify_checkpoint(DiskFolder(checkpoint)).faults == (
        f"{marker} was changed after it was written",
    )


@pytest.mark.slow
def test_a_change_of_any_bit_of_the_marker_is_found(checkpoint: Path) -> None:
    file, folder = checkpoint / "COMMIT.json", DiskFolder(checkpoint)
    for position in range(file.stat().st_size):
        for bit in range(8):
            flip_bit(file, position, bit)
            faults = verify_checkpoint(folder).faults
            assert any(str(file) in fault for fault in faults), f"bit {bit} of byte {position}"
            flip_bit(file, position, bit)


def test_every_fault_is_named_not_only_the_first(checkpoint: Path, command: Command) -> None:
    (checkpoint / "tokenizer.model").unlink()
    with (checkpoint / "rank-00000.bin").open("r+b") as file:
        file.truncate(1000)
    flip_bit(checkpoint / "rank-00001.bin", 4000)
    with (checkpoint / "state.json").open("a") as file:
        file.write(" ")
    exit_code, lines = command("verify", checkpoint)
    assert exit_code == 1
    printed = [line.removeprefix(f"{checkpoint}/") for line in lines]
    for start in (
        "tokenizer.model is missing",
        "rank-00000.bin has 1000 bytes, ",
        "rank-00000.bin ends at byte 1000: ",
        "rank-00001.bin: weight/",
        "state.json has ",
    ):
        assert sum(line.startswith(start) for line in printed) == 1, start
    assert lines[-1] == f"{checkpoint}: not complete: 5 faults; use another checkpoint"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b'{"files": {"rank-', "cannot be read as JSON"),
        (b'{"schema": "bigtrain-checkpoint/9", "files": {}}', "upgrade bigtrain"),
        (None, "COMMIT.json is missing"),
    ],
)
def test_the_other_files_are_verified_if_the_marker_is_unreadable(
    content: bytes | None, message: str, checkpoint: Path, command: Command
) -> None:
    marker = checkpoint / "COMMIT.json"
    marker.unlink() if content is None else marker.write_bytes(content)
    flip_bit(checkpoint / "rank-00001.bin", 0)
    exit_code, lines = command("verify", checkpoint)
    assert exit_code == 1
    assert len(lines) == 3
    assert message in lines[0]
    assert "rank-00001.bin: weight/" in lines[1]


def test_the_newest_checkpoint_is_verified_even_if_it_cannot_be_read(
    run: Path, checkpoint: Path, command: Command
) -> None:
    (checkpoint / "COMMIT.json").write_bytes(b"{")
    exit_code, lines = command("verify", run)
    assert exit_code == 1
    assert str(checkpoint) in lines[0]


def test_values_that_are_not_finite_are_reported_but_are_not_a_fault(
    checkpoint: Path, command: Command
) -> None:
    def make_not_finite(tensors: dict[str, np.ndarray]) -> None:
        tensors["weight/decoder.final_layernorm.weight"][3:5] = np.nan, np.inf

    save_in_one_piece(checkpoint, make_not_finite)
    exit_code, [line] = command("verify", checkpoint)
    assert exit_code == 0
    assert line.endswith(
        "2 values are not finite (of 1 tensors, weight/decoder.final_layernorm.weight the first)"
    )


def test_a_committed_table_with_incomplete_tensors_is_found(
    checkpoint: Path, command: Command
) -> None:
    name = "decoder.layers.0.mlp.linear_fc1.weight"

    def change(table: dict) -> None:
        first, second = table["tensors"][f"weight/{name}"]["boxes"][:2]
        second["offset"] = first["offset"]
        del table["tensors"][f"first_moment/{name}"]

    change_json(checkpoint / "tensors.json", change)
    exit_code, lines = command("verify", checkpoint)
    assert exit_code == 1
    text = "\n".join(lines)
    assert f"tensors.json: {name} has no first_moment" in text
    assert f"weight/{name}: elements are saved twice: 1 pairs of its boxes overlap" in text
    assert "belong to no tensor" in text  # The bytes of the moment tensor.


def test_a_state_of_another_step_or_tokenizer_is_found(checkpoint: Path, command: Command) -> None:
    (checkpoint / "tokenizer.model").write_bytes(b"another")
    commit_again(checkpoint)
    other = checkpoint.rename(checkpoint.with_name("step-00000007"))
    exit_code, lines = command("verify", other)
    assert exit_code == 1
    assert "is not the tokenizer of state.json" in lines[0]
    assert lines[1].endswith("has step 6, but its folder's name has step 7")


@pytest.mark.parametrize(
    ("shape", "boxes", "faults"),
    [
        ((4, 6), [_box((0, 0), (4, 6))], []),
        ((4, 6), [_box((0, 0), (4, 2)), _box((0, 2), (2, 4)), _box((2, 2), (2, 4))], []),
        (
            (4, 6),
            [_box((0, 0), (4, 2)), _box((0, 3), (4, 3))],
            ["elements are missing: its boxes hold 20 of 24"],
        ),
        ((4,), [_box((0,), (3,)), _box((2,), (2,))], ["elements are saved twice: 1 pairs"]),
        (
            (4,),
            [_box((0,), (2,)), _box((0,), (2,))],
            ["elements are saved twice", "elements are missing"],
        ),
        ((4,), [], ["elements are missing: its boxes hold 0 of 4"]),
    ],
)
def test_boxes_must_cover_a_tensor_exactly_once(
    shape: tuple[int, ...], boxes: list[SavedBox], faults: list[str]
) -> None:
    tensor = SavedTensor("weight/x", shape, tuple(boxes))
    assert not any(box_fault(tensor, box) for box in boxes)
    found = [*coverage_faults(tensor)]
    assert len(found) == len(faults)
    assert all(expected in fault for expected, fault in zip(faults, found, strict=True))


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        (_box((3,), (2,)), "exceeds its tensor"),
        (_box((-1,), (2,)), "not an integer of at least 0"),
        (_box((0, 0), (2, 1)), "does not have as many axes"),
        (SavedBox((0,), (2,), "rank-00000.bin", 0, 9, 0), "9 bytes for 2 fp32 values"),
        (SavedBox((0,), (2,), "rank-00000.bin", "0", 8, 0), "not an integer of at least 0"),  # type: ignore[arg-type]
    ],
)
def test_an_invalid_box_is_reported(box: SavedBox, fault: str) -> None:
    assert fault in str(box_fault(SavedTensor("weight/x", (4,), (box,)), box))


def test_boxes_must_cover_a_file_exactly_once() -> None:
    boxes = [_box((0,), (2,), 0), _box((0,), (2,), 12), _box((0,), (2,), 16)]
    assert [*file_coverage_faults("f", 30, boxes)] == [
        "f: bytes 8 to 11 belong to no tensor",
        "f: bytes 16 to 19 belong to two boxes",
        "f: bytes 24 to 29 belong to no tensor",
    ]


def test_a_checkpoint_of_the_first_version_without_marker_checksum_is_valid(
    checkpoint: Path,
) -> None:
    marker = checkpoint / "COMMIT.json"
    value = json.loads(marker.read_text())
    del value["crc32"]
    marker.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n")
    assert verify_checkpoint(DiskFolder(checkpoint)).faults == ()
