"""On a GPU, attention inside documents runs in blocks and is that of a dense mask."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from bigtrain.models.documents import DocumentMasks, attend_in_blocks, dense_mask

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here"),
]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-2), (torch.bfloat16, 3e-2)], ids=str
)
def test_blocks_attend_as_a_dense_mask_does(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    length = 1024
    documents = (torch.rand(2, length, device="cuda") < 0.01).cumsum(1)
    mask = DocumentMasks().of(documents)
    assert not isinstance(mask, torch.Tensor)
    query = torch.randn(2, 4, length, 64, device="cuda", dtype=dtype, requires_grad=True)
    key, value = (
        torch.randn(2, 2, length, 64, device="cuda", dtype=dtype, requires_grad=True)
        for _ in range(2)
    )
    upstream = torch.randn_like(query)
    parts = (query, key, value)
    found = attend_in_blocks(query, key, value, mask, scale=0.125)
    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=dense_mask(documents), scale=0.125, enable_gqa=True
    )
    assert torch.allclose(found, expected, atol=tolerance)
    ours = torch.autograd.grad(found, parts, upstream)
    theirs = torch.autograd.grad(expected, parts, upstream)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() < tolerance * other.norm()


def test_the_mask_of_a_long_row_is_never_made_dense() -> None:
    length = 32768
    documents = torch.arange(length, device="cuda")[None] // 3000
    torch.cuda.synchronize()
    DocumentMasks().of(documents)  # Compiled by now.
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    DocumentMasks().of(documents.clone())
    assert torch.cuda.max_memory_allocated() - before < length * length / 8
