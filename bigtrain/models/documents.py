"""Masks that keep packed documents apart: made once for a microbatch, shared by its layers."""

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from bigtrain.parallel.device import has_block_attention

_compiled: dict[str, Any] = {}


class DocumentMasks:
    """The mask of the microbatch that was asked for last; one for all layers of a chunk."""

    def __init__(self) -> None:
        self._documents: torch.Tensor | None = None
        self._version = -1
        self._mask: torch.Tensor | BlockMask | None = None

    def of(self, documents: torch.Tensor) -> torch.Tensor | BlockMask:
        """The causal mask within documents.

        Args:
            documents: ``[batch, sequence]``, the number of the document that each token is of.

        Returns:
            ``[batch, 1, query, key]``, True where a query sees a key; or, on devices that attend
            in blocks, the same as a block mask.
        """
        if self._mask is None or not self._is_known(documents):
            blocks = has_block_attention(documents.device)
            self._mask = block_mask(documents) if blocks else dense_mask(documents)
            # Held, so that no other tensor can come to lie at its address.
            self._documents, self._version = documents, documents._version
        return self._mask

    def _is_known(self, documents: torch.Tensor) -> bool:
        # Recomputation hands over another tensor object of the same memory.
        known = self._documents
        return (
            known is not None
            and known.data_ptr() == documents.data_ptr()
            and known.shape == documents.shape
            and known.stride() == documents.stride()
            and self._version == documents._version
        )


def dense_mask(documents: torch.Tensor) -> torch.Tensor:
    """``[batch, 1, query, key]``, True where a query sees a key of its document and its past."""
    return (documents[:, None, :, None] == documents[:, None, None, :]).tril()


def document_rule(documents: torch.Tensor) -> Any:
    """The same as a function of (batch, head, query, key), as flex_attention takes it."""

    def sees(
        row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return (query >= key) & (documents[row, query] == documents[row, key])

    return sees


def block_mask(documents: torch.Tensor) -> BlockMask:
    """The blocks of queries and keys that see each other; compiled, it never makes them dense."""
    rows, length = documents.shape
    make = _compiled.setdefault("mask", torch.compile(create_block_mask))
    mask: BlockMask = make(document_rule(documents), rows, None, length, length, documents.device)
    return mask


def attend_in_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: BlockMask,
    *,
    scale: float,
) -> torch.Tensor:
    """flex_attention, compiled (Dong et al., arXiv 2412.05496), with grouped heads.

    Args:
        query: ``[batch, heads, sequence, head_dim]``.
        key: The same with key heads.
        value: As ``key``.
        mask: From ``block_mask``.
        scale: Of the logits.
    """
    attend = _compiled.setdefault("attention", torch.compile(flex_attention))
    grouped = query.shape[1] != key.shape[1]
    context: torch.Tensor = attend(
        query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped
    )
    return context
