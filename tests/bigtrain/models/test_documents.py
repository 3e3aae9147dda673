"""The masks of packed documents: the blockwise one sees what the dense one sees."""

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from bigtrain.models.documents import DocumentMasks, dense_mask, document_mask_function

DOCUMENTS = torch.tensor([[0] * 5 + [1] * 11, [0] * 3 + [1] * 1 + [2] * 12])


def test_a_token_sees_its_document_up_to_itself() -> None:
    mask = dense_mask(torch.tensor([[4, 4, 7, 7]]))
    assert mask.shape == (1, 1, 4, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_the_rule_of_blocks_is_the_dense_mask() -> None:
    rows, length = DOCUMENTS.shape
    attends = document_mask_function(DOCUMENTS)
    row, query, key = torch.meshgrid(
        torch.arange(rows), torch.arange(length), torch.arange(length), indexing="ij"
    )
    assert torch.equal(attends(row, torch.zeros_like(row), query, key), dense_mask(DOCUMENTS)[:, 0])


def test_flex_attention_computes_what_a_dense_mask_does_with_grouped_heads() -> None:
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


def test_a_mask_is_made_once_for_a_microbatch() -> None:
    masks = DocumentMasks()
    documents = DOCUMENTS.clone()
    first = masks.of(documents)
    assert masks.of(documents) is first
    assert masks.of(documents.detach()) is first  # As recomputation hands it over.


def test_a_mask_is_made_anew_for_other_documents() -> None:
    masks = DocumentMasks()
    documents = DOCUMENTS.clone()
    first = masks.of(documents)
    assert not torch.equal(masks.of(torch.zeros_like(documents)), first)
    assert torch.equal(masks.of(documents), first)
    documents.zero_()
    assert torch.equal(masks.of(documents), dense_mask(documents))
    assert torch.equal(masks.of(documents[:1]), dense_mask(documents[:1]))
