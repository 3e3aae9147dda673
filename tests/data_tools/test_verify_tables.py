"""`data verify` also checks sample tables."""

import shutil

from data_tools.samples.build_sample_table import build_sample_table
from data_tools.verify_corpus import verify_corpus


def test_a_damaged_sample_table_is_named_and_an_undamaged_one_is_not(sharded, tmp_path):
    folder = shutil.copytree(sharded / "train", tmp_path / "train")

    def found(level):
        return [fault.line for fault in verify_corpus(folder, level).faults]

    table = build_sample_table(folder, mode="pad", sequence_length=16).folder
    assert not verify_corpus(folder, "full").faults
    content = bytearray((table / "starts.npy").read_bytes())
    content[-8] ^= 1
    (table / "starts.npy").write_bytes(content)
    assert not verify_corpus(folder, "crc").faults
    (fault,) = found("full")
    assert fault.startswith("samples/pad-16: ")
    assert "starts.npy" in fault
    (table / "rows.npy").unlink()
    assert "rows.npy" in found("header")[0]
