"""The cross entropy against torch's in fp64, over one and two tensor ranks."""

from typing import Any

import pytest
import torch

from tests.ranks import run_ranks

ROWS, LENGTH, COLUMNS, VOCAB = 3, 40, 512, 500
Z_LOSS = 0.1


def _made(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits whose padded columns have the largest values, targets, and weights of targets."""
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(ROWS, LENGTH, COLUMNS, generator=chance) * 5
    logits[..., VOCAB:] = 40.0
    targets = torch.randint(0, VOCAB, (ROWS, LENGTH), generator=chance)
    # Errors are most likely in the first and the last column of each rank.
    targets[0, :4] = torch.tensor([0, COLUMNS // 2 - 1, COLUMNS // 2, VOCAB - 1])
    return logits.to(dtype), targets, torch.rand(ROWS, LENGTH, generator=chance)


def _rank(world_size: int, dtype: torch.dtype, z_loss: float) -> Any:
    from bigtrain.config.layout import Layout
    from bigtrain.environment import read_ranks
    from bigtrain.models import loss
    from bigtrain.parallel.groups import process_groups

    loss._CPU_BLOCK = 7 * COLUMNS  # Several blocks, the last of them short.
    logits, targets, weights = _made(dtype)
    with process_groups(
        read_ranks(), Layout(tensor=world_size), torch.device("cpu")
    ) as coordinates:
        mine = logits.chunk(world_size, dim=-1)[coordinates.tensor].clone().requires_grad_()
        losses, z = loss.token_losses(mine, targets, vocab_size=VOCAB, z_loss=z_loss)
        hits = loss.token_hits(mine, targets, vocab_size=VOCAB)
        total = (losses * weights).sum() if z is None else ((losses + z) * weights).sum()
        total.backward()
        assert mine.grad is not None and mine.grad.dtype is dtype
        assert losses.dtype is torch.float32
        parts = (losses, z, hits, mine.grad)
        return [None if part is None else part.detach().float().numpy() for part in parts]


def _ours(world_size: int, dtype: torch.dtype, z_loss: float = 0.0) -> list[Any]:
    """Losses, z-losses, hits and the full gradient; checks that the ranks' outputs are equal."""
    answers = run_ranks(_rank, world_size, world_size, dtype, z_loss)
    shared = [
        [None if part is None else part.tobytes() for part in answer[:3]] for answer in answers
    ]
    assert all(other == shared[0] for other in shared)
    *parts, _ = [None if part is None else torch.from_numpy(part).double() for part in answers[0]]
    return [*parts, torch.cat([torch.from_numpy(answer[3]).double() for answer in answers], dim=-1)]


def _in_fp64(dtype: torch.dtype, z_loss: float = 0.0) -> list[Any]:
    logits, targets, weights = _made(dtype)
    wide = logits.double().requires_grad_()
    real = wide[..., :VOCAB]
    losses = torch.nn.functional.cross_entropy(real.transpose(1, 2), targets, reduction="none")
    z = z_loss * real.exp().sum(-1).log() ** 2
    ((losses + z) * weights).sum().backward()
    return [losses.detach(), z.detach(), real.argmax(-1) == targets, wide.grad]


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("z_loss", [0.0, Z_LOSS])
def test_losses_and_gradients_equal_those_of_fp64(world_size: int, z_loss: float) -> None:
    losses, z, hits, gradient = _ours(world_size, torch.float32, z_loss)
    expected = _in_fp64(torch.float32, z_loss)
    torch.testing.assert_close(losses, expected[0], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(gradient, expected[3], rtol=5e-6, atol=1e-7)
    assert torch.equal(hits.bool(), expected[2])
    if z_loss:
        torch.testing.assert_close(z, expected[1], rtol=2e-6, atol=0)
    else:
        assert z is None


@pytest.mark.parametrize("world_size", [1, 2])
def test_bf16_logits_give_fp32_losses_and_gradients_rounded_once(world_size: int) -> None:
    losses, _, hits, gradient = _ours(world_size, torch.bfloat16)
    expected = _in_fp64(torch.bfloat16)
    torch.testing.assert_close(losses, expected[0], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(gradient, expected[3], rtol=2**-8, atol=1e-7)
    assert torch.equal(hits.bool(), expected[2])


def test_padded_columns_have_no_effect() -> None:
    *_, gradient = _ours(2, torch.float32, Z_LOSS)
    assert gradient[..., VOCAB:].abs().max() == 0
    assert (gradient[..., :VOCAB] != 0).any(dim=(0, 1)).all()


def _only_the_first_rank_has_tokens() -> Any:
    from bigtrain.config.layout import Layout
    from bigtrain.environment import read_ranks
    from bigtrain.models.loss import token_hits, token_losses
    from bigtrain.parallel.groups import process_groups

    with process_groups(read_ranks(), Layout(tensor=2), torch.device("cpu")) as coordinates:
        logits = torch.zeros(1, 2, 64)
        if coordinates.tensor == 1:
            logits += 9.0
        logits.requires_grad_()
        targets = torch.tensor([[0, 1]])
        losses, _ = token_losses(logits, targets, vocab_size=32)
        losses.sum().backward()
        assert logits.grad is not None
        hits = token_hits(logits, targets, vocab_size=32)
        return losses.tolist(), hits.tolist(), float(logits.grad.abs().sum())


def test_a_rank_may_hold_only_padding_and_the_first_of_equal_logits_wins() -> None:
    first, second = run_ranks(_only_the_first_rank_has_tokens, 2)
    for losses, hits, _ in (first, second):
        assert losses[0] == pytest.approx([3.4657359] * 2, rel=1e-6)
        assert hits == [[True, False]]
    assert first[2] == pytest.approx(2 * 2 * 31 / 32, rel=1e-6)
    assert second[2] == 0


def _saved_bytes() -> int:
    from bigtrain.config.layout import Layout
    from bigtrain.environment import read_ranks
    from bigtrain.models.loss import token_losses
    from bigtrain.parallel.groups import process_groups

    logits, targets, _ = _made(torch.bfloat16)
    logits.requires_grad_()
    storages: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        process_groups(read_ranks(), Layout(), torch.device("cpu")),
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        token_losses(logits, targets, vocab_size=VOCAB)
    storages.pop(logits.data_ptr())
    return sum(storages.values())


def test_no_tensor_as_large_as_the_logits_is_saved_for_backward() -> None:
    assert run_ranks(_saved_bytes, 1)[0] < 32 * ROWS * LENGTH
