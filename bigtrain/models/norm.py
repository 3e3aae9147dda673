"""LayerNorm with megatron-core's signature; its own local one refuses sequence parallelism."""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig


class LayerNorm(torch.nn.LayerNorm):
    """LayerNorm over the hidden size (Ba et al., arXiv 1607.06450)."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any
    ) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        for parameter in self.parameters():
            # Under sequence parallelism each rank sees a part: the gradients must be summed.
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
