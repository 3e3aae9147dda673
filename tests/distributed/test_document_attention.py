"""Packed documents do not see each other: each is scored as if it stood alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks
from tests.runs import LLAMA, tiny_config

PARTS = [slice(0, 5), slice(5, 16)]


def score_together_and_alone(model: dict[str, Any]) -> tuple[float, float]:
    """The largest difference of a logit: packed and alone, packed and seen; for ``run_ranks``."""
    from tests.distributed.hugging_face import one_rank, whole_model

    config = tiny_config(Path("corpus"), Path("runs"), model={"vocab_size": 100, **model})
    tokens = torch.stack([torch.arange(1, 17), torch.arange(17, 1, -1)])
    documents = torch.tensor([[0] * 5 + [1] * 11, [0] * 16])
    positions = torch.tensor([[*range(5), *range(11)], [*range(16)]])

    def score(part: slice) -> torch.Tensor:
        row = tokens[:, part]
        return module(row, torch.arange(row.shape[1]).expand(row.shape), None)

    with one_rank(), torch.no_grad():
        module, _ = whole_model(config, random_std=0.3)
        together = module(tokens, positions, documents)
        seen = score(slice(0, 16))
        alone = torch.cat([score(part) for part in PARTS], dim=1)
    assert torch.allclose(together[1], seen[1], atol=1e-5)  # The second row is one document.
    return (
        float((together[0] - alone[0]).abs().max()),
        float((together[0] - seen[0]).abs().max()),
    )


@pytest.mark.parametrize("model", [{}, LLAMA], ids=["gpt", "llama"])
def test_a_packed_document_is_scored_as_if_it_stood_alone(model: dict[str, Any]) -> None:
    [(from_alone, from_seen)] = run_ranks(score_together_and_alone, 1, model)
    assert from_alone < 1e-5
    # Documents that see each other score otherwise.
    assert from_seen > 0.05
