"""Counts the floating-point operations of one sample, by module; MFU and HFU use them.

Only matrix products count: a multiply-add as two operations, a backward pass as two forward passes,
for the gradients of both factors (Korthikanti et al., arXiv 2205.05198, appendix A). Embedding
look-ups, norms, rotations and softmax are not counted.

Model FLOPs are what the model needs in any implementation (PaLM, arXiv 2204.02311, appendix B): no
vocabulary padding, no recomputation. Causal attention counts as half, as in FlashAttention
(arXiv 2307.08691, section 4.1); the other two papers count all of it, as ``full_attention`` does.
Masks between documents, and padding inside rows, are not subtracted. Hardware FLOPs are what is
computed: they include padded vocabulary columns, recomputed activations, and the scores that a
fused attention kernel recomputes in its backward pass.
"""

from dataclasses import dataclass

from bigtrain.config import RunConfig
from bigtrain.config.model import ModelConfig

BACKWARD = 2
"""A backward pass counts as this many forward passes."""


@dataclass(frozen=True, slots=True)
class ModuleFlops:
    """The operations of one kind of module, over all layers, for one sample."""

    name: str
    forward: int
    """Operations of the forward pass that the model needs."""
    computed_forward: int
    """Operations of the forward pass as it is computed, with vocabulary padding."""
    recomputed: int = 0
    """Operations that the backward pass recomputes."""
    full_attention: int | None = None
    """``forward`` with all of causal attention counted; None if it is the same."""

    @property
    def backward(self) -> int:
        """Operations of the backward pass that the model needs."""
        return BACKWARD * self.forward

    @property
    def model(self) -> int:
        """Operations of forward and backward pass that the model needs."""
        return self.forward + self.backward

    @property
    def hardware(self) -> int:
        """Operations of forward and backward pass as they are computed."""
        return (1 + BACKWARD) * self.computed_forward + self.recomputed


@dataclass(frozen=True, slots=True)
class SampleFlops:
    """The operations of one sample, by module and in total, over all ranks that compute it."""

    sequence_length: int
    modules: tuple[ModuleFlops, ...]

    @property
    def forward(self) -> int:
        """Operations of the forward pass that the model needs."""
        return sum(module.forward for module in self.modules)

    @property
    def model(self) -> int:
        """Model FLOPs of a sample, for MFU."""
        return sum(module.model for module in self.modules)

    @property
    def hardware(self) -> int:
        """Hardware FLOPs of a sample, for HFU."""
        return sum(module.hardware for module in self.modules)

    @property
    def full_attention(self) -> int:
        """Model FLOPs of a sample with all of causal attention counted, as in PaLM's MFU."""
        return (1 + BACKWARD) * sum(
            module.forward if module.full_attention is None else module.full_attention
            for module in self.modules
        )

    @property
    def model_per_token(self) -> float:
        """Model FLOPs of one position of a sample."""
        return self.model / self.sequence_length

    @property
    def hardware_per_token(self) -> float:
        """Hardware FLOPs of one position of a sample."""
        return self.hardware / self.sequence_length


def model_flops(config: RunConfig, *, sequence_length: int | None = None) -> SampleFlops:
    """Counts the operations of training on one sample.

    Args:
        config: The run's config.
        sequence_length: Positions in the sample, with padding; data.sequence_length if None
            (sentence pairs can be shorter).
    """
    length = sequence_length or config.data.sequence_length
    layers = [
        *_projections(config.model, length),
        *_attention(config.model, length, recompute=config.train.recompute),
    ]
    if config.train.recompute == "full":
        layers = [_with_recomputation(module) for module in layers]
    embedding = ModuleFlops("embedding", 0, 0)
    return SampleFlops(length, (embedding, *layers, *_heads(config.model, length)))


def _projections(model: ModelConfig, length: int) -> list[ModuleFlops]:
    hidden, heads, kv_heads = model.hidden_size, model.num_heads, model.kv_heads
    input_matrices = 2 if model.activation == "swiglu" else 1  # SwiGLU has a gate matrix.
    widths = {
        "qkv": hidden * model.head_dim * (heads + 2 * kv_heads),
        "attention_output": heads * model.head_dim * hidden,
        "feed_forward": (input_matrices + 1) * hidden * model.feed_forward_size,
    }
    return [
        _module(name, 2 * length * weights * model.num_layers) for name, weights in widths.items()
    ]


def _attention(model: ModelConfig, length: int, *, recompute: str) -> list[ModuleFlops]:
    full = 2 * length * length * model.head_dim * model.num_heads * model.num_layers
    is_causal = model.traits.is_causal
    # Fused kernels skip the blocks that a causal mask hides.
    needed = full // 2 if is_causal else full
    recomputed = needed if recompute == "selective" else 0
    full_attention = full if is_causal else None
    return [
        # The backward kernel recomputes the scores, because they are not kept.
        ModuleFlops("attention_scores", needed, needed, needed + recomputed, full_attention),
        ModuleFlops("attention_values", needed, needed, recomputed, full_attention),
    ]


def _heads(model: ModelConfig, length: int) -> list[ModuleFlops]:
    hidden = model.hidden_size
    vocabulary = ModuleFlops(
        "vocabulary",
        2 * length * hidden * model.vocab_size,
        2 * length * hidden * model.padded_vocab_size,
    )
    if not model.traits.reads_pairs:
        return [vocabulary]
    return [
        # megatron-core computes all positions, though only masked ones are predicted.
        _module("masked_token_head", 2 * length * hidden * hidden),
        vocabulary,
        # The pooler and the sentence head compute only the first position.
        _module("pooler", 2 * hidden * hidden),
        _module("sentence_head", 2 * hidden * 2),
    ]


def _module(name: str, forward: int) -> ModuleFlops:
    return ModuleFlops(name, forward, forward)


def _with_recomputation(module: ModuleFlops) -> ModuleFlops:
    return ModuleFlops(
        module.name,
        module.forward,
        module.computed_forward,
        module.recomputed + module.computed_forward,
        module.full_attention,
    )
