"""The planned FLOPs equal those that torch counts in the modules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from bigtrain.plan.flops import ModuleFlops, SampleFlops, model_flops
from bigtrain.plan.parameters import count_parameters
from tests.ranks import run_ranks
from tests.runs import CLASSIC_BERT, tiny_config

LLAMA: dict[str, Any] = {
    "num_kv_heads": 2,
    "ffn_hidden_size": 96,
    "positions": "rope",
    "norm": "rmsnorm",
    "activation": "swiglu",
    "biases": False,
    "qk_norm": True,
    "tie_embeddings": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "gpt": {},
    "llama": {"model": LLAMA},
    "bert": {"model": {"kind": "bert"}, "data": {"packing": "pairs"}},
    "classic bert": {"model": CLASSIC_BERT, "data": {"packing": "pairs"}},
}
ROWS = 3


def counted_by_torch(config: RunConfig, *, fused: bool) -> tuple[int, int]:
    """The FLOPs that torch counts in a forward and backward pass, and the number of weights.

    Args:
        config: The config of a run on one rank.
        fused: Whether attention is the fused kernel of training, or plain products.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from bigtrain.config.layout import layout_of
    from bigtrain.environment import read_ranks
    from bigtrain.models.build import build_chunks, materialize
    from bigtrain.parallel import groups
    from bigtrain.parallel.device import choose_device

    ranks, device = read_ranks(), torch.device("cpu")
    choose_device("cpu", ranks)
    layout = layout_of(config, ranks.world_size)
    with groups.process_groups(ranks, layout, device):
        [chunk] = build_chunks(config, layout)
        materialize(chunk, device)
        with torch.no_grad():
            for parameter in chunk.parameters():
                parameter.fill_(0.01)
        kernel = SDPBackend.FLASH_ATTENTION if fused else SDPBackend.MATH
        counter = FlopCounterMode(display=False, custom_mapping=_fused_formulas())
        with sdpa_kernel(kernel), counter:
            outputs = chunk(*_inputs(config))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            sum(output.float().sum() for output in outputs).backward()
        return counter.get_total_flops(), sum(p.numel() for p in chunk.parameters())


def _inputs(config: RunConfig) -> tuple[Any, ...]:
    import torch

    tokens = torch.zeros(ROWS, config.data.sequence_length, dtype=torch.int64)
    if config.model.kind == "bert":
        return tokens, torch.ones_like(tokens, dtype=torch.bool), tokens
    return tokens, torch.arange(tokens.shape[1]).expand_as(tokens), None


def _fused_formulas() -> dict[Any, Callable[..., int]]:
    """FLOP formulas of fused attention on CPU; torch only has those of the GPU kernels."""
    import torch
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def _config(folder: Path, kind: str, *, vocab_size: int = 500, **train: Any) -> RunConfig:
    sections = KINDS[kind]
    model = {**sections.get("model", {}), "vocab_size": vocab_size}
    return tiny_config(folder, folder, **{**sections, "model": model, "train": train})


@pytest.mark.parametrize("kind", KINDS)
def test_model_flops_equal_the_matrix_products_of_the_modules(tmp_path: Path, kind: str) -> None:
    config = _config(tmp_path, kind, vocab_size=512)  # 512 needs no padding.
    [(counted, weights)] = run_ranks(counted_by_torch, 1, config, fused=False)
    # torch counts causal attention as full attention.
    assert counted == ROWS * model_flops(config).full_attention
    assert weights == count_parameters(config.model).total


@pytest.mark.parametrize(
    ("kind", "recompute"),
    [
        ("gpt", "none"),
        ("gpt", "selective"),
        ("llama", "full"),
        ("bert", "none"),
        ("bert", "full"),
        ("classic bert", "full"),
    ],
)
def test_hardware_flops_equal_the_computed_operations(
    tmp_path: Path, kind: str, recompute: str
) -> None:
    config = _config(tmp_path, kind, recompute=recompute)
    [(counted, weights)] = run_ranks(counted_by_torch, 1, config, fused=True)
    flops = model_flops(config)
    causal = sum(module.hardware for module in flops.modules if module.full_attention is not None)
    assert counted == ROWS * (flops.hardware + causal)
    assert weights == count_parameters(config.model).padded_total


def test_a_token_costs_six_operations_per_weight_plus_attention(tmp_path: Path) -> None:
    config = _config(tmp_path, "gpt", vocab_size=512)
    flops, parts = model_flops(config), count_parameters(config.model).modules
    # PaLM's formula (appendix B), 6N + 12·L·H·Q·T; N is without biases, norms and positions.
    matrices = sum(parts[name] for name in ("qkv", "attention_output", "feed_forward"))
    matrices -= 4 * (32 * 3 + 32 + 128 + 32)  # biases
    attention = 12 * 4 * 4 * 8 * 32
    assert flops.full_attention / 32 == 6 * (matrices + 512 * 32) + attention
    assert flops.model_per_token == 6 * (matrices + 512 * 32) + attention / 2


def test_padding_counts_as_hardware_flops_but_not_as_model_flops(tmp_path: Path) -> None:
    config = _config(tmp_path, "gpt")
    [vocabulary] = [m for m in model_flops(config).modules if m.name == "vocabulary"]
    assert vocabulary.model * 512 == vocabulary.hardware * 500


def test_half_the_row_costs_half_the_products_and_a_quarter_of_attention(tmp_path: Path) -> None:
    config = _config(tmp_path, "bert")
    half, full = model_flops(config, sequence_length=16), model_flops(config)
    shares = {one.name: two.forward / one.forward for one, two in _pairs(half, full)}
    assert shares["qkv"] == 2
    assert shares["attention_scores"] == 4
    assert shares["pooler"] == 1


def _pairs(half: SampleFlops, full: SampleFlops) -> list[tuple[ModuleFlops, ModuleFlops]]:
    modules = zip(half.modules, full.modules, strict=True)
    return [(one, two) for one, two in modules if one.forward]
