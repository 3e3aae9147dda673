"""No rank ever holds more bytes of a model than its share and one layer."""

from typing import Any

import pytest

from tests.distributed.steps import steps_config, take_steps
from tests.ranks import run_ranks

RANKS = 4
LAYERS = 8
LAYER_BYTES = 12 * 128 * 128 * 4
"""Weights of one layer in fp32; norms and biases are 1 % more."""
MODEL = {
    "num_layers": LAYERS,
    "hidden_size": 128,
    "num_heads": 4,
    "vocab_size": 500,
    "max_sequence_length": 32,
}
SHARE_BYTES = LAYERS * LAYER_BYTES // RANKS
WITH_ENDS = 1.1
"""Embeddings and norms beside the layers' matrices."""
KEPT: list[tuple[dict[str, Any], int]] = [
    # Weights, masters, two moments, gradients.
    ({"zero": 3}, 5),
    # The same, and the bucket that reduces the gradients.
    ({"tensor": RANKS}, 6),
]
LAYER_COPIES = 5
"""Copies of one layer at a time: its weights, and its gradient from backward, in the bucket, in
the order of ranks, and in gloo. The weights of the full model are eight layers."""


def measure_bytes(config: Any) -> tuple[int, int, int]:
    """Peak bytes on this rank: at initialization, until the end of step 1, and during step 2."""
    import weakref

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map_only

    import bigtrain.engine.engine as engine_module

    class LiveBytes(TorchDispatchMode):
        """Counts the bytes of live storages that operations allocate."""

        def __init__(self) -> None:
            super().__init__()
            self.live = self.peak = 0
            self._known: Any = weakref.WeakSet()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            tree_map_only(torch.Tensor, self._count, result)
            return result

        def _count(self, tensor: Any) -> None:
            storage = tensor.untyped_storage()
            if tensor.is_meta or storage in self._known:
                return
            self._known.add(storage)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, storage.nbytes())

        def _free(self, size: int) -> None:
            self.live -= size

    peaks = []
    bytes_now = LiveBytes()
    materialize, update = engine_module.materialize, engine_module.Engine.update

    def note_peak(function: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            answer = function(*args, **kwargs)
            peaks.append(bytes_now.peak)
            return answer

        return noted

    engine_module.materialize = note_peak(materialize)
    engine_module.Engine.update = note_peak(update)  # type: ignore[method-assign]
    with bytes_now:
        take_steps(config, steps=2, gather=False)
    return peaks[0], peaks[1], peaks[-1]


def _peaks(**parallel: Any) -> list[tuple[int, int, int]]:
    config = steps_config(
        parallel=parallel,
        model=MODEL,
        data={"sequence_length": 4},
        train={"global_batch_size": RANKS if parallel.get("zero") else 1},
    )
    return run_ranks(measure_bytes, RANKS, config)


@pytest.mark.parametrize(
    ("parallel", "kept"),
    [KEPT[0], pytest.param(*KEPT[1], marks=pytest.mark.slow)],
    ids=["zero=3", "tensor=4"],
)
def test_no_rank_holds_more_than_its_share_and_a_layer(parallel: dict[str, Any], kept: int) -> None:
    for start, until_first_step, over_steps in _peaks(**parallel):
        assert start < WITH_ENDS * SHARE_BYTES + LAYER_BYTES
        assert until_first_step < kept * WITH_ENDS * SHARE_BYTES + LAYER_COPIES * LAYER_BYTES
        assert over_steps < kept * WITH_ENDS * SHARE_BYTES + LAYER_COPIES * LAYER_BYTES
