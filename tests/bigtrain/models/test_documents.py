"""The masks of packed documents: the blockwise mask equals the dense mask."""

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from bigtrain.models.documents import DocumentMasks, dense_mask, document_mask_function

DOCUMENTS = torch.tensor([[0] * 5 + [1] * 11, [0] * 3 + [1] * 1 + [2] * 12])


def test_a_token_attends_to_its_document_up_to_itself() -> None:
    mask = dense_mask(torch.tensor([[4, 4, 7, 7]]))
    assert mask.shape == (1, 1, 4, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_the_blockwise_mask_equals_the_dense_mask() -> None:
    rows, length = DOCUMENTS.shape
    attends = document_mask_function(DOCUMENTS)
    row, query, key = torch.meshgrid(
        torch.arange(rows), torch.arange(length), torch.arange(length), indexing="ij"
    )
    assert torch.equal(attends(row, torch.zeros_like(row), query, key), dense_mask(DOCUMENTS)[:, 0])


def test_flex_attention_with_grouped_heads_equals_attention_with_a_dense_mask() -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 4, 16, 8)
    key, value = torch.randn(2, 2, 2, 16, 8)
    blocks = create_block_mask(document_mask_function(DOCUMENTS), 2, None, 16, 16, device="cpu")
    found = flex_attention(query, key, value, block_mask=blocks, scale=0.3, enable_gqa=True)
    mask = dense_mask(DOCUMENTS)
    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    )
    assert torch.allclose(found, expected, atol=1e-6)
    unmasked = scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.3, enable_gqa=True
    )
    assert not torch.allclose(found, unmasked, atol=1e-2)


def test_a_mask_is_made_once_per_microbatch() -> None:
    masks = DocumentMasks()
    documents = DOCUMENTS.clone()
    first = masks.of(documents)
    assert masks.of(documents) is first
    assert masks.of(documents.detach()) is first  # Recomputation passes a detached tensor.


def test_a_new_mask_is_made_for_other_documents() -> None:
    masks = DocumentMasks()
    documents = DOCUMENTS.clone()
    first = masks.of(documents)
    assert not torch.equal(masks.of(torch.zeros_like(documents)), first)
    assert torch.equal(masks.of(documents), first)
    documents.zero_()
    assert torch.equal(masks.of(documents), dense_mask(documents))
    assert torch.equal(masks.of(documents[:1]), dense_mask(documents[:1]))
