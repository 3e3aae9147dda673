"""Finds almost equal documents: MinHash sketches by datasketch, compared if they share a band.

datasketch's own index has Python objects in memory for every band of every document, several
kilobytes per document. Here a document needs 4 bytes per MinHash value and 8 per band on disk
(by default 656 bytes with the exact table). Only one band at a time is in memory, for at most
16 Mi documents together: about 0.6 GB. The result needs one byte per document, and 16 bytes for
each band that a document shares with another one.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from data_tools.cleaning.clean_config import NearDuplicateRules
from data_tools.cleaning.duplicate_tables import KEYS_AT_ONCE, Keys
from data_tools.cleaning.word_splitter import split_terms

Values = NDArray[np.uint32]
_SHINGLES_AT_ONCE = 4096
_NO_BAND = np.uint64(0)


class Sketcher:
    """Makes the MinHash values of texts, with the hash functions that the rules choose."""

    def __init__(self, rules: NearDuplicateRules) -> None:
        from datasketch import MinHash

        self._rules = rules
        self._empty = MinHash(num_perm=rules.num_perm, seed=rules.seed, hashfunc=int)

    def sketch(self, text: str) -> Values | None:
        """The MinHash values, `[num_perm]`, of a text's shingles; None if it has no words."""
        shingles = hash_shingles(split_terms(text), size=self._rules.shingle_words)
        if not len(shingles):
            return None
        sketch = self._empty.copy()
        for start in range(0, len(shingles), _SHINGLES_AT_ONCE):
            sketch.update_batch(shingles[start : start + _SHINGLES_AT_ONCE].tolist())
        return np.asarray(sketch.hashvalues, dtype="<u4")

    def empty(self) -> Values:
        """The values that the table has for a text without words, `[num_perm]`."""
        return np.asarray(self._empty.hashvalues, dtype="<u4")

    def band_keys(self, values: Values | None) -> Keys:
        """One key per band, `[bands]`; keys are equal if all values of the band are equal."""
        bands = self._rules.bands
        if values is None:
            return np.full(bands, _NO_BAND, dtype="<u8")
        places = np.arange(len(values), dtype=np.uint64) << np.uint64(32)
        keys = _mix(_mix(values | places).reshape(bands, -1).sum(axis=1))
        return np.maximum(keys, np.uint64(1)).astype("<u8")


def hash_shingles(terms: Sequence[str], *, size: int) -> NDArray[np.uint32]:
    """Hashes every `size` consecutive terms; a shorter text is one shingle.

    Returns:
        The distinct hashes, ascending.
    """
    if not terms:
        return np.zeros(0, np.uint32)
    hashes = _hash_terms(terms)
    size = min(size, len(hashes))
    shingles = np.zeros(len(hashes) - size + 1, np.uint64)
    for offset, factor in enumerate(_mix(np.arange(size, dtype=np.uint64))):
        shingles += hashes[offset : offset + len(shingles)] * factor
    return np.unique((_mix(shingles) >> np.uint64(32)).astype(np.uint32))


def find_near_duplicates(
    bands: Sequence[Keys],
    values: Sequence[Values],
    *,
    skipped: NDArray[np.bool_],
    threshold: float,
    keys_at_once: int = KEYS_AT_ONCE,
) -> NDArray[np.bool_]:
    """Marks the documents that are similar to an earlier document that is kept.

    In each band, a document is compared with the first kept document that has the same key. It is
    dropped if the fraction of MinHash values equal to those of one of these reaches the threshold.

    Args:
        bands: `[documents, bands]` for each task, in the order of tasks and of documents.
        values: `[documents, num_perm]` for each task.
        skipped: `[documents]`: those that are neither dropped nor compared.
        threshold: Estimated Jaccard similarity from which documents count as duplicates.
        keys_at_once: How many documents are sorted in memory together.
    """
    places, groups = _find_groups(bands, skipped, keys_at_once)
    starts = np.cumsum([0, *map(len, values)])
    duplicate = np.zeros(len(skipped), dtype=bool)
    # The first kept document of each group; -1 if none is kept yet.
    first = np.full(int(groups.max(initial=-1)) + 1, -1, np.int64)
    for place, mine in _by_document(places, groups):
        others = np.unique(first[mine])
        others = others[others >= 0]
        own = _row(values, starts, place)
        if any(np.mean(own == _row(values, starts, other)) >= threshold for other in others):
            duplicate[place] = True
        else:
            first[mine] = np.where(first[mine] < 0, place, first[mine])
    return duplicate


def _hash_terms(terms: Sequence[str]) -> NDArray[np.uint64]:
    """Hashes terms that are not empty: a sum of characters, each times a number of its position."""
    lengths = np.fromiter(map(len, terms), np.int64, len(terms))
    starts = np.cumsum(lengths) - lengths
    characters = np.frombuffer("".join(terms).encode("utf-32-le", "surrogatepass"), "<u4")
    positions = np.arange(len(characters)) - np.repeat(starts, lengths)
    factors = _mix(np.arange(int(lengths.max()), dtype=np.uint64))
    return _mix(np.add.reduceat(characters * factors[positions], starts))


def _find_groups(
    bands: Sequence[Keys], skipped: NDArray[np.bool_], keys_at_once: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Groups the documents that have the same key in a band.

    Returns:
        The numbers of documents and of their groups: one pair for each band that is shared.
    """
    places: list[NDArray[np.int64]] = []
    groups: list[NDArray[np.int64]] = []
    num_groups = 0
    parts = -(-len(skipped) // keys_at_once)
    for band in range(bands[0].shape[1] if bands else 0):
        for part in range(parts):
            keys, found = _gather_band(bands, skipped, band=band, part=part, parts=parts)
            _, kind, count = np.unique(keys, return_inverse=True, return_counts=True)
            shared = count > 1
            number = np.cumsum(shared) - 1 + num_groups
            is_shared = shared[kind]
            places.append(found[is_shared])
            groups.append(number[kind[is_shared]])
            num_groups += int(shared.sum())
    if not places:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(places), np.concatenate(groups)


def _gather_band(
    bands: Sequence[Keys], skipped: NDArray[np.bool_], *, band: int, part: int, parts: int
) -> tuple[Keys, NDArray[np.int64]]:
    keys, places, start = [], [], 0
    for table in bands:
        column = np.asarray(table[:, band])
        counts = (column != _NO_BAND) & ~skipped[start : start + len(column)]
        chosen = np.flatnonzero(counts & (column % np.uint64(parts) == part))
        keys.append(column[chosen])
        places.append(chosen + start)
        start += len(column)
    return np.concatenate(keys), np.concatenate(places)


def _by_document(
    places: NDArray[np.int64], groups: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    order = np.argsort(places, kind="stable")
    places, groups = places[order], groups[order]
    documents, starts = np.unique(places, return_index=True)
    ends = np.append(starts, len(places))[1:]
    for document, start, end in zip(documents.tolist(), starts, ends, strict=True):
        yield document, groups[start:end]


def _row(values: Sequence[Values], starts: NDArray[np.int64], place: int) -> Values:
    table = int(np.searchsorted(starts, place, side="right")) - 1
    row: Values = values[table][place - starts[table]]
    return row


def _mix(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mixes the bits of every key: the finalizer of SplitMix64."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
