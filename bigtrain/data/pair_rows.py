"""Reads rows for BERT: `[CLS] A [SEP] B [SEP]`, masked and padded to one length. No torch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bigtrain.data.masking import Keys, MaskingRules, mask_tokens
from data_tools.corpus import Corpus
from data_tools.errors import InputError
from data_tools.samples.sample_table import SampleTable
from data_tools.tokenizer import SpecialIds


@dataclass(frozen=True, slots=True)
class PairRows:
    """Rows of sentence pairs; all but `is_random` are ``[rows, padded length]``."""

    tokens: npt.NDArray[np.int64]
    """The tokens that the model reads."""
    token_types: npt.NDArray[np.int64]
    """0 for ``[CLS] A [SEP]``, 1 for ``B [SEP]``, 0 for padding."""
    padding_mask: npt.NDArray[np.bool_]
    """True where there is a token, False in padding."""
    labels: npt.NDArray[np.int64]
    """The original tokens."""
    weights: npt.NDArray[np.float32]
    """1 where a token is to be predicted, 0 elsewhere."""
    is_random: npt.NDArray[np.int64]
    """``[rows]``: 1 where B is from another document, 0 where it follows A."""


def check_special_ids(special: SpecialIds, *, tokenizer: str) -> None:
    """Refuses a tokenizer that lacks a special id that sentence pairs need.

    Args:
        special: Its special ids; -1 for an id that it lacks.
        tokenizer: Its name in the message.

    Raises:
        InputError: An id is missing.
    """
    missing = [name for name in ("pad", "cls", "sep", "mask") if getattr(special, name) < 0]
    if missing:
        raise InputError(
            f"{tokenizer} reserves no id for {', '.join(missing)}, which sentence pairs need: "
            "train a tokenizer with `bigtrain data tokenizer`"
        )


def read_pairs(
    corpus: Corpus,
    table: SampleTable,
    samples: npt.NDArray[np.int64],
    *,
    keys: Keys,
    special: SpecialIds,
    masking: MaskingRules,
    padded_length: int,
) -> PairRows:
    """Reads samples of a table of pairs as rows.

    Args:
        corpus: The corpus that the table was made from.
        table: A table of mode ``pairs``.
        samples: The numbers of the samples in the table.
        keys: ``[samples, 2]``: the keys of the samples' random numbers, from ``sample_keys``.
        special: The tokenizer's special ids.
        masking: From ``plan_masking``.
        padded_length: Width of the rows; no pair is longer.

    Raises:
        InputError: The corpus or the table is damaged.
    """
    assert table.mode == "pairs"
    assert min(special.pad, special.cls, special.sep) >= 0
    segments = table.read(samples)
    assert segments.is_random is not None
    a_lengths, b_lengths = segments.lengths[0::2], segments.lengths[1::2]
    lengths = a_lengths + b_lengths + 3
    assert lengths.size == 0 or lengths.max() <= padded_length
    rows = np.full((len(samples), padded_length), special.pad, dtype=np.int64)
    for row, a_start, b_start, a_length, b_length in zip(
        rows,
        segments.starts[0::2].tolist(),
        segments.starts[1::2].tolist(),
        a_lengths.tolist(),
        b_lengths.tolist(),
        strict=True,
    ):
        middle, end = a_length + 1, a_length + b_length + 2
        row[0], row[middle], row[end] = special.cls, special.sep, special.sep
        row[1:middle] = corpus.read(a_start, a_start + a_length)
        row[middle + 1 : end] = corpus.read(b_start, b_start + b_length)
    places = np.arange(padded_length)
    padding_mask = places < lengths[:, None]
    masked = mask_tokens(rows, keys=keys, rules=masking)
    return PairRows(
        tokens=masked.inputs,
        token_types=((places >= a_lengths[:, None] + 2) & padding_mask).astype(np.int64),
        padding_mask=padding_mask,
        labels=masked.labels,
        weights=masked.weights,
        is_random=segments.is_random.astype(np.int64),
    )
