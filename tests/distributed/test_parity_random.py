"""Random models in random layouts of up to four ranks give the figures of one process.

The test's name contains the seed: ``pytest -m '' tests/distributed/test_parity_random.py -k 105``.
All seeds together take five minutes on two cores.
"""

from pathlib import Path

import pytest

from bigtrain.config import RunConfig
from bigtrain.parity.compare import FP32_TOLERANCES, Reference
from bigtrain.parity.layout_runs import measure_layout, measure_one_process
from tests.distributed.parity_ranks import forked
from tests.distributed.random_models import random_case

STEPS = 2
SEEDS = range(100, 160)
"""Six of these models have gradients that consist only of rounding, in a layout that shows it."""
QUICK_SEEDS = (105, 116)
"""Two of those six: one layout splits heads and samples, one splits heads and the sequence."""


def _check(seed: int, corpus: Path, pair_corpus: Path, folder: Path) -> None:
    config, layout = random_case(seed, corpus, pair_corpus, folder / "runs")
    start = forked(STEPS)
    reference = measure_one_process(config, folder=folder / "alone", start=start)
    own = folder / "layout"
    row = measure_layout(
        config, layout, reference=reference, tolerances=FP32_TOLERANCES, folder=own, start=start
    )
    case = f"{layout.name} of {config.model}"
    assert row.refusal is None and row.error is None, f"{case}: {row.refusal or row.error}"
    assert row.failures == (), f"{case}: {row.comparison}"
    assert not _hides_a_fault(reference) or _amplifies_rounding(config), case


def _hides_a_fault(reference: Reference) -> bool:
    """Whether a scale error of 1e-4 could be taken for rounding in a tensor with a gradient."""
    rounding = reference.rounding
    partly = rounding.gradients.keys() - set(rounding.rounding_only)
    return any(rounding.gradients[name].relative() >= 1e-4 for name in partly)


def _amplifies_rounding(config: RunConfig) -> bool:
    """Whether LayerNorms act on two numbers: they give ±1, and most of the gradient cancels."""
    model = config.model
    return model.qk_norm and model.norm == "layernorm" and model.head_dim == 2


@pytest.mark.parametrize("seed", QUICK_SEEDS)
def test_models_with_gradients_of_only_rounding_give_the_figures_of_one_process(
    seed: int, corpus: Path, pair_corpus: Path, tmp_path: Path
) -> None:
    _check(seed, corpus, pair_corpus, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed not in QUICK_SEEDS])
def test_a_random_model_in_a_random_layout_gives_the_figures_of_one_process(
    seed: int, corpus: Path, pair_corpus: Path, tmp_path: Path
) -> None:
    _check(seed, corpus, pair_corpus, tmp_path)
