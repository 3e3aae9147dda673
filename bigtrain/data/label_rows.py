"""Makes padded rows of labelled text: for BERT with special tokens, for GPT without. No torch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_tools.labels.label_table import LabelledRows
from data_tools.tokenizer import SpecialIds


@dataclass(frozen=True, slots=True)
class LabelRows:
    """Padded rows of labelled text."""

    tokens: npt.NDArray[np.int64]
    """``[rows, padded length]``."""
    token_types: npt.NDArray[np.int64]
    """``[rows, padded length]``: 1 in the second text (with its ``[SEP]``), else 0."""
    padding_mask: npt.NDArray[np.bool_]
    """``[rows, padded length]``: True at tokens, False in padding."""
    lengths: npt.NDArray[np.int64]
    """``[rows]``: the tokens of each row without padding."""
    labels: npt.NDArray[np.int64]
    """``[rows]``: the number of each row's class."""


def num_added_tokens(*, has_pairs: bool, adds_special: bool) -> int:
    """How many special tokens `label_rows` adds to a row."""
    return (3 if has_pairs else 2) if adds_special else 0


def label_rows(
    read: LabelledRows,
    *,
    has_pairs: bool,
    special: SpecialIds,
    adds_special: bool,
    padded_length: int,
) -> LabelRows:
    """Pads rows on the right.

    Args:
        read: The rows of a label table.
        has_pairs: Whether a row has two texts.
        special: The tokenizer's special ids.
        adds_special: Whether rows are ``[CLS] A [SEP]`` or ``[CLS] A [SEP] B [SEP]``, as for BERT;
            otherwise ``A`` or ``A B``, as an exported GPT's tokenizer gives them.
        padded_length: The width of the rows; no row is longer.
    """
    assert read.seconds is not None and read.labels is not None
    added = num_added_tokens(has_pairs=has_pairs, adds_special=adds_special)
    lengths = np.diff(read.offsets) + added
    assert lengths.size == 0 or lengths.max() <= padded_length
    pad = special.pad if special.pad >= 0 else special.eos
    rows = np.full((len(lengths), padded_length), pad, dtype=np.int64)
    types = np.zeros_like(rows)
    for row, kinds, start, stop, second, length in zip(
        rows,
        types,
        read.offsets[:-1].tolist(),
        read.offsets[1:].tolist(),
        read.seconds.tolist(),
        lengths.tolist(),
        strict=True,
    ):
        parts = [read.tokens[start : start + second]]
        if has_pairs:
            parts.append(read.tokens[start + second : stop])
        if adds_special:
            parts = [np.append(part, special.sep) for part in parts]
            parts[0] = np.insert(parts[0], 0, special.cls)
        row[:length] = np.concatenate(parts)
        kinds[len(parts[0]) : length] = 1
    padding_mask = np.arange(padded_length) < lengths[:, None]
    return LabelRows(rows, types, padding_mask, lengths, read.labels)
