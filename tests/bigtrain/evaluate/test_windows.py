"""Every token of a corpus is predicted in exactly one window, from the tokens before it."""

import math
from pathlib import Path

import numpy as np
import pytest

from bigtrain.evaluate.figures import TokenSums
from bigtrain.evaluate.request import EvaluationError, check_corpora
from bigtrain.evaluate.windows import Windows
from data_tools.corpus import Corpus, open_corpus
from data_tools.tokenizer import load_tokenizer
from tests.runs import tiny_config


def open_windows(corpus: Corpus, length: int, stride: int, *, separates: bool = False) -> Windows:
    tokenizer = load_tokenizer(corpus.local_file(corpus.manifest.tokenizer.file))
    return Windows(corpus, length, stride, tokenizer.special, separates)


@pytest.mark.parametrize(("length", "stride"), [(32, 32), (32, 10), (7, 1), (10**6, 10**6)])
def test_every_token_counts_once(corpus: Path, length: int, stride: int) -> None:
    with open_corpus(corpus / "validation") as opened:
        windows = open_windows(opened, length, stride)
        rows = windows.read(range(windows.count))
        stream = opened.read(0, opened.num_tokens)
        end = windows.special.eos
    assert rows.weights is not None
    counted = rows.weights > 0
    assert np.array_equal(rows.targets[counted], stream)
    before = np.concatenate([[end], stream[:-1]])
    assert np.array_equal(rows.tokens[counted], before)
    # A counted token has the tokens of its own window before it, as many as the stride leaves.
    context = np.nonzero(counted)[1][length:]
    assert not len(context) or context.min() >= length - stride


def test_attention_stays_inside_documents_if_the_run_says_so(corpus: Path) -> None:
    with open_corpus(corpus / "validation") as opened:
        windows = open_windows(opened, 64, 64, separates=True)
        rows = windows.read(range(windows.count))
        crossing = open_windows(opened, 64, 64).read([0])
    assert crossing.documents is None and crossing.positions is None
    assert rows.documents is not None and rows.positions is not None
    begins = np.zeros(rows.tokens.shape, dtype=bool)
    begins[:, 1:] = rows.tokens[:, :-1] == windows.special.eos
    assert begins.any()
    assert not rows.positions[begins].any()
    assert np.array_equal(np.diff(rows.documents, axis=1), begins[:, 1:])


def test_sums_of_corpora_add_up_and_too_large_a_loss_is_an_infinite_perplexity() -> None:
    total = TokenSums(2.0, 2, 1, 4) + TokenSums(4.0, 1, 0, 2)
    figures = total.figures()
    assert figures["loss"] == 2.0
    assert figures["perplexity"] == pytest.approx(math.exp(2))
    assert figures["bits_per_byte"] == pytest.approx(6 / math.log(2) / 6)
    assert TokenSums(1e6, 1, 0, 1).figures()["perplexity"] == math.inf
    assert math.isnan(TokenSums(1.0, 1, 1, 0).figures()["bits_per_byte"])


def test_a_run_of_label_tables_is_refused(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, tmp_path, objective={"kind": "answer_only"}, data={"packing": "answers"}
    )
    with pytest.raises(EvaluationError, match="trains answer_only on label tables"):
        check_corpora(config, ["corpus"], tokenizer_sha256="")
