"""Reads rows of tokens from a corpus: windows of its stream, or packed pieces of documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.corpus import Corpus
from data_tools.samples.sample_table import Segments


@dataclass(frozen=True, slots=True)
class Rows:
    """The input and targets of a causal model; each array is ``[rows, sequence]``."""

    tokens: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    """The token after each token."""
    weights: npt.NDArray[np.float32] | None = None
    """1 where the loss of a target counts, 0 in padding; None where all count."""
    positions: npt.NDArray[np.int64] | None = None
    """Position in its document; None where it is the position in the row."""
    documents: npt.NDArray[np.int64] | None = None
    """Number of each token's document in the row; None where attention crosses documents."""


def read_windows(
    corpus: Corpus, windows: Sequence[int], *, sequence_length: int, document_end: int | None = None
) -> Rows:
    """Reads windows of the token stream, each token with the one after it as its target.

    Args:
        corpus: The corpus.
        windows: The numbers of the windows.
        sequence_length: Tokens in a window.
        document_end: The token that ends a document, if attention must stay inside documents.
    """
    starts = [window * sequence_length for window in windows]
    stream = corpus.read_rows(starts, sequence_length + 1).astype(np.int64)
    return rows_of_stream(stream, document_end=document_end)


def rows_of_stream(stream: npt.NDArray[np.int64], *, document_end: int | None = None) -> Rows:
    """Makes rows of parts of a token stream, each token with the one after it as its target.

    Args:
        stream: ``[rows, sequence + 1]``.
        document_end: The token that ends a document, if attention must stay inside documents.
    """
    tokens, targets = stream[:, :-1], stream[:, 1:]
    if document_end is None:
        return Rows(tokens, targets)
    begins = np.zeros(tokens.shape, dtype=bool)
    begins[:, 1:] = tokens[:, :-1] == document_end
    return Rows(
        tokens,
        targets,
        positions=token_positions(begins),
        documents=np.cumsum(begins, axis=1, dtype=np.int64),
    )


def read_segments(corpus: Corpus, segments: Segments, *, sequence_length: int, pad: int) -> Rows:
    """Reads rows of pieces of documents; the rest of a row is padding, which has weight 0.

    Args:
        corpus: The corpus.
        segments: The pieces of each row, as ranges of the token stream.
        sequence_length: Width of a row.
        pad: The token to pad with.
    """
    count = len(segments.offsets) - 1
    tokens = np.full((count, sequence_length), pad, dtype=np.int64)
    targets = tokens.copy()
    weights = np.zeros(tokens.shape, dtype=np.float32)
    begins = np.zeros(tokens.shape, dtype=bool)
    for row in range(count):
        filled = 0
        for segment in range(segments.offsets[row], segments.offsets[row + 1]):
            start, length = int(segments.starts[segment]), int(segments.lengths[segment])
            piece = corpus.read(start, start + length + 1)
            place = slice(filled, filled + length)
            tokens[row, place], targets[row, place] = piece[:-1], piece[1:]
            weights[row, place] = 1.0
            begins[row, filled] = True
            filled += length
        if filled < sequence_length:
            begins[row, filled] = True  # Padding is a document of its own.
    begins[:, 0] = False
    return Rows(
        tokens,
        targets,
        weights=weights,
        positions=token_positions(begins),
        documents=np.cumsum(begins, axis=1, dtype=np.int64),
    )


def token_positions(begins: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """The position of each token in its document, from where documents begin; same shape."""
    places = np.broadcast_to(np.arange(begins.shape[1]), begins.shape)
    return places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)
