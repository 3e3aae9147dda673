"""Rows have the document and position of each token, and the weight of each target."""

from pathlib import Path

import numpy as np

from bigtrain.data.token_rows import read_segments, read_windows
from data_tools.corpus import open_corpus
from data_tools.samples.sample_table import Segments

EOS = 2


def test_a_window_has_document_ids_and_positions_restart_in_each_document(corpus: Path) -> None:
    with open_corpus(corpus / "train") as stream:
        rows = read_windows(
            stream, range(stream.num_tokens // 64 - 1), sequence_length=64, document_end=EOS
        )
        assert (rows.tokens[1:, 0] == rows.targets[:-1, -1]).all()
        assert (rows.tokens == EOS).sum() > 5
        assert rows.documents is not None
        assert rows.positions is not None
        for tokens, documents, positions in zip(
            rows.tokens.tolist(), rows.documents.tolist(), rows.positions.tolist(), strict=True
        ):
            document = position = 0
            for token, is_of, place in zip(tokens, documents, positions, strict=True):
                assert (is_of, place) == (document, position)
                position += 1
                if token == EOS:
                    document, position = document + 1, 0


def test_attention_across_documents_needs_no_document_ids_or_restarted_positions(
    corpus: Path,
) -> None:
    with open_corpus(corpus / "train") as stream:
        rows = read_windows(stream, [3], sequence_length=64)
    assert rows.documents is None
    assert rows.positions is None
    assert rows.weights is None


def test_packed_pieces_are_adjacent_and_padding_has_no_weight(corpus: Path) -> None:
    segments = Segments(
        offsets=np.array([0, 2, 3]),
        starts=np.array([10, 100, 50]),
        lengths=np.array([5, 7, 16]),
    )
    with open_corpus(corpus / "train") as stream:
        rows = read_segments(stream, segments, sequence_length=16, pad=0)
        first, second, third = (
            stream.read(a, b).tolist() for a, b in [(10, 16), (100, 108), (50, 67)]
        )
    assert rows.tokens.tolist() == [first[:-1] + second[:-1] + [0] * 4, third[:-1]]
    assert rows.targets.tolist() == [first[1:] + second[1:] + [0] * 4, third[1:]]
    assert rows.weights is not None
    assert rows.weights.tolist() == [[1.0] * 12 + [0.0] * 4, [1.0] * 16]
    assert rows.positions is not None
    assert rows.positions.tolist() == [[*range(5), *range(7), *range(4)], [*range(16)]]
    assert rows.documents is not None
    assert rows.documents.tolist() == [[0] * 5 + [1] * 7 + [2] * 4, [0] * 16]
