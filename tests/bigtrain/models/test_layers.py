"""Compiled layers compute the same as uncompiled ones."""

from pathlib import Path
from typing import Any

import pytest

from tests.ranks import run_ranks
from tests.runs import LLAMA, tiny_config


def build(model: dict[str, Any], train: dict[str, Any]) -> list[float]:
    """The loss and the gradient's norm of one pass of a new model; for ``run_ranks``."""
    import torch

    from tests.distributed.hugging_face import build_unsplit_model, one_rank

    config = tiny_config(Path("corpus"), Path("runs"), model=model, train=train)
    with one_rank():
        module, _ = build_unsplit_model(config, random_std=0.2)
        tokens = torch.arange(32).view(2, 16)
        logits = module(tokens, torch.arange(16).expand(2, 16), None)
        loss = logits.log_softmax(-1)[..., 7].mean()
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in module.parameters()]).norm()
    return [float(loss), float(norm)]


@pytest.mark.slow  # Compiling takes a minute.
@pytest.mark.parametrize("model", [{}, {"biases": False}, LLAMA], ids=["gpt", "no biases", "llama"])
def test_compiled_layers_compute_the_same(model: dict[str, Any]) -> None:
    [plain] = run_ranks(build, 1, model, {})
    [compiled] = run_ranks(build, 1, model, {"compile": True}, timeout=600)
    assert compiled == pytest.approx(plain, rel=1e-5)
