"""Packed documents do not attend to each other: logits equal those of unpacked documents."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks
from tests.runs import LLAMA, tiny_config

PARTS = [slice(0, 5), slice(5, 16)]


def measure_logit_differences(model: dict[str, Any]) -> tuple[float, float]:
    """Largest difference of packed logits from unpacked and unmasked logits; for ``run_ranks``."""
    from tests.distributed.hugging_face import build_unsplit_model, one_rank

    config = tiny_config(Path("corpus"), Path("runs"), model={"vocab_size": 100, **model})
    tokens = torch.stack([torch.arange(1, 17), torch.arange(17, 1, -1)])
    documents = torch.tensor([[0] * 5 + [1] * 11, [0] * 16])
    positions = torch.tensor([[*range(5), *range(11)], [*range(16)]])

    def score(part: slice) -> torch.Tensor:
        row = tokens[:, part]
        return module(row, torch.arange(row.shape[1]).expand(row.shape), None)

    with one_rank(), torch.no_grad():
        module, _ = build_unsplit_model(config, random_std=0.3)
        packed = module(tokens, positions, documents)
        unmasked = score(slice(0, 16))
        unpacked = torch.cat([score(part) for part in PARTS], dim=1)
    assert torch.allclose(packed[1], unmasked[1], atol=1e-5)  # The second row is one document.
    return (
        float((packed[0] - unpacked[0]).abs().max()),
        float((packed[0] - unmasked[0]).abs().max()),
    )


@pytest.mark.parametrize("model", [{}, LLAMA], ids=["gpt", "llama"])
def test_a_packed_document_has_the_logits_of_an_unpacked_one(model: dict[str, Any]) -> None:
    [(from_unpacked, from_unmasked)] = run_ranks(measure_logit_differences, 1, model)
    assert from_unpacked < 1e-5
    # Documents that attend to each other have other logits.
    assert from_unmasked > 0.05
