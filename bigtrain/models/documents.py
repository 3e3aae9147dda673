"""Attention masks for packed documents, built once per microbatch and shared by its layers."""

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from bigtrain.parallel.device import has_block_attention

_compiled: dict[str, Any] = {}


class DocumentMasks:
    """Keeps the mask of the current microbatch for all layers of a chunk."""

    def __init__(self) -> None:
        self._documents: torch.Tensor | None = None
        self._version = -1
        self._mask: torch.Tensor | BlockMask | None = None

    def of(self, documents: torch.Tensor) -> torch.Tensor | BlockMask:
        """The causal mask within documents.

        Args:
            documents: ``[batch, sequence]``, the number of each token's document.

        Returns:
            ``[batch, 1, query, key]``, True where a query attends to a key; on a GPU the same as a
            ``BlockMask`` for flex_attention.
        """
        if self._mask is None or not self._is_cached(documents):
            blocks = has_block_attention(documents.device)
            self._mask = block_mask(documents) if blocks else dense_mask(documents)
            # This reference prevents another tensor from being allocated at the same address.
            self._documents, self._version = documents, documents._version
        return self._mask

    def _is_cached(self, documents: torch.Tensor) -> bool:
        # Recomputation passes another tensor object with the same memory.
        cached = self._documents
        return (
            cached is not None
            and cached.data_ptr() == documents.data_ptr()
            and cached.shape == documents.shape
            and cached.stride() == documents.stride()
            and self._version == documents._version
        )


def dense_mask(documents: torch.Tensor) -> torch.Tensor:
    """``[batch, 1, query, key]``, True for keys of the query's document up to its position."""
    return (documents[:, None, :, None] == documents[:, None, None, :]).tril()


def document_mask_function(documents: torch.Tensor) -> Any:
    """``dense_mask`` as a function of batch, head, query and key, as flex_attention requires."""

    def attends(
        row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return (query >= key) & (documents[row, query] == documents[row, key])

    return attends


def block_mask(documents: torch.Tensor) -> BlockMask:
    """``dense_mask`` as a ``BlockMask``; the compiled function never allocates the dense mask."""
    rows, length = documents.shape
    make = _compiled.setdefault("mask", torch.compile(create_block_mask))
    mask: BlockMask = make(
        document_mask_function(documents), rows, None, length, length, documents.device
    )
    return mask


def attend_in_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: BlockMask,
    *,
    scale: float,
) -> torch.Tensor:
    """Computes attention by compiled flex_attention (Dong et al., arXiv 2412.05496).

    Args:
        query: ``[batch, heads, sequence, head_dim]``.
        key: ``[batch, key heads, sequence, head_dim]``; query heads share key heads evenly.
        value: ``[batch, key heads, sequence, head_dim]``.
        mask: From ``block_mask``.
        scale: Factor of the attention logits.
    """
    attend = _compiled.setdefault("attention", torch.compile(flex_attention))
    grouped = query.shape[1] != key.shape[1]
    context: torch.Tensor = attend(
        query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped
    )
    return context
