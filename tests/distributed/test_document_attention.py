"""Packed documents do not see each other: each is scored as if it stood alone."""

from pathlib import Path

import torch

from tests.ranks import run_ranks
from tests.runs import tiny_config


def score_together_and_alone() -> float:
    """The largest difference of a logit; for ``run_ranks``."""
    from bigtrain.data.microbatch import Microbatch
    from bigtrain.environment import read_ranks
    from bigtrain.models.build import build_chunks, materialize
    from bigtrain.parallel.device import choose_device
    from bigtrain.parallel.groups import process_groups
    from bigtrain.parallel.layout import Layout
    from bigtrain.train.forward import gpt_forward_step

    ranks = read_ranks()
    device, layout = choose_device("cpu", ranks), Layout(tensor=1, pipeline=1, data=1)
    config = tiny_config(Path("corpus"), Path("runs"), model={"vocab_size": 100})
    tokens = torch.arange(1, 17)[None]
    parts = [slice(0, 5), slice(5, 16)]
    documents = torch.tensor([[0] * 5 + [1] * 11])
    positions = torch.tensor([[*range(5), *range(11)]])

    def score(microbatch: Microbatch) -> torch.Tensor:
        step = gpt_forward_step(vocab_size=100, device=device, loss_scale=1.0)
        with torch.no_grad():
            logits, _ = step(iter([(0, microbatch)]), module)
        return logits

    def row(part: slice) -> Microbatch:
        return Microbatch(tokens[:, part], tokens[:, part], torch.ones(1, part.stop - part.start))

    with process_groups(ranks, layout, device):
        (module,) = build_chunks(config, layout)
        materialize(module, device)
        torch.manual_seed(0)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        whole = row(slice(0, 16))
        packed = Microbatch(whole.tokens, whole.targets, whole.weights, positions, documents)
        together = score(packed)
        seen = score(whole)
        alone = torch.cat([score(row(part)) for part in parts], dim=1)
    assert (together - seen).abs().max() > 0.1  # Documents that see each other score otherwise.
    return float((together - alone).abs().max())


def test_a_packed_document_is_scored_as_if_it_stood_alone() -> None:
    assert run_ranks(score_together_and_alone, 1)[0] < 1e-5
