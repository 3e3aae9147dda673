"""Finds equal documents, by sorting a hash of 16 bytes per document.

The table of hashes is on disk. The hashes of at most 16 Mi documents are in memory at a time, about
0.7 GB with their indices and order. The result needs one byte per document.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_tools.cleaning.duplicate_tables import KEYS_AT_ONCE, Keys, gather_rows

DIGEST_BYTES = 16


def digest_text(text: str) -> bytes:
    """Hashes a text; texts that differ only in white space have the same hash."""
    content = " ".join(text.split()).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def find_exact_duplicates(
    digests: Sequence[Keys], *, keys_at_once: int = KEYS_AT_ONCE
) -> NDArray[np.bool_]:
    """Marks the documents that are equal to an earlier one.

    Args:
        digests: `[documents, 2]` for each task, in the order of tasks and of documents.
        keys_at_once: How many documents are sorted in memory together.

    Returns:
        `[documents]` over all tasks; False for the first of several equal documents.
    """
    duplicate = np.zeros(sum(map(len, digests)), dtype=bool)
    parts = -(-len(duplicate) // keys_at_once)
    for part in range(parts):
        keys, places = gather_rows(digests, column=0, part=part, parts=parts)
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        keys = keys[order]
        again = (keys[1:] == keys[:-1]).all(axis=1)
        duplicate[places[order[1:][again]]] = True
    return duplicate
