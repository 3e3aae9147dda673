"""Host memory for copies: blocks of one size, whose tensors do not overlap."""

import pytest
import torch

from bigtrain.parallel import device
from bigtrain.parallel.device import copy_to_host, host_memory


def test_tensors_share_blocks_and_none_overlaps_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_BLOCK_ELEMENTS", 16)
    shapes = [torch.Size(shape) for shape in ((2, 3), (10,), (), (4, 5), (1, 15), (1,))]
    memory = host_memory(shapes, torch.device("cpu"))
    wanted = [torch.full(shape, float(number)) for number, shape in enumerate(shapes)]
    copy_to_host(list(zip(wanted, memory, strict=True)), torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(wanted, memory, strict=True))
    blocks = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in memory}
    assert sorted(blocks.values()) == [4, 4 * 16, 4 * 16, 4 * 20]
