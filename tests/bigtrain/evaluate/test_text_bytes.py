"""The bytes of a text are those of its tokens, wherever the windows cut it."""

from pathlib import Path

import pytest
import torch

from bigtrain.data.microbatch import Microbatch
from bigtrain.evaluate.text_bytes import count_text
from data_tools.tokenizer import load_tokenizer
from tests.data_tools.test_tokenizer_sentencepiece import AS_IT_IS, train_usual_model

TEXTS = ("the cat sat on a mat", "hello world é")


@pytest.mark.parametrize("has_prefix", [True, False])
@pytest.mark.parametrize("length", [1, 3, 64])
def test_every_byte_of_the_text_counts_once(tmp_path: Path, has_prefix: bool, length: int) -> None:
    options = {**AS_IT_IS, "add_dummy_prefix": has_prefix}
    tokenizer = load_tokenizer(train_usual_model(tmp_path / "llama.model", **options))
    eos = tokenizer.special.eos
    ids = [i for text in TEXTS for i in (*tokenizer.encode(text).tolist(), eos)]
    rows = [
        Microbatch(torch.tensor([inputs]), torch.tensor([targets]), torch.ones(1, len(targets)))
        for inputs, targets in (
            ([eos, *ids][first : first + length][: len(ids) - first], ids[first : first + length])
            for first in range(0, len(ids), length)
        )
    ]
    size = sum(len(text.encode()) for text in TEXTS)
    assert count_text(rows, tokenizer) == (size, len(TEXTS))
