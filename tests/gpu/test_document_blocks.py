"""On a GPU, blockwise attention inside documents equals attention with a dense mask."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from bigtrain.models.documents import DocumentMasks, attend_in_blocks, dense_mask

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine"),
]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-2), (torch.bfloat16, 3e-2)], ids=str
)
def test_blockwise_attention_equals_that_of_a_dense_mask(
    dtype: torch.dtype, tolerance: float
) -> None:
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


def test_the_dense_mask_of_a_long_row_is_never_built() -> None:
    length = 32768
    documents = torch.arange(length, device="cuda")[None] // 3000
    torch.cuda.synchronize()
    DocumentMasks().of(documents)  # Compiles the kernel before memory is measured.
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    DocumentMasks().of(documents.clone())
    assert torch.cuda.max_memory_allocated() - before < length * length / 8
