"""Equal documents: 16 bytes stand for each, and sorting brings the equal ones together.

The table of a job, 16 bytes per document, lies on disk. In memory are 16 Mi documents of it at a
time, about 0.7 GB with their places and order, however large the corpus is, and one byte per
document for the result.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_tools.cleaning.duplicate_tables import KEYS_AT_ONCE, Keys, gather_rows

DIGEST_BYTES = 16


def digest_text(text: str) -> bytes:
    """Stands for a text; differences in white space do not count."""
    content = " ".join(text.split()).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def find_exact_duplicates(
    digests: Sequence[Keys], *, keys_at_once: int = KEYS_AT_ONCE
) -> NDArray[np.bool_]:
    """Marks the documents that came before.

    Args:
        digests: [documents, 2] of every task, in the order of tasks and of documents.
        keys_at_once: How many documents are sorted in memory together.

    Returns:
        [documents], over all tasks; False for the first of each kind.
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
