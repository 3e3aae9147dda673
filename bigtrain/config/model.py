"""The config section `model`. Each key is documented here."""

from typing import Literal

from pydantic import model_validator

from bigtrain.config.model_kinds import MODEL_KINDS, ModelKind, ModelTraits
from bigtrain.config.sections import (
    Fraction,
    PositiveFloat,
    PositiveInt,
    Section,
    divisors_near,
)


class RopeScalingConfig(Section):
    """Stretches rotary positions beyond the trained length (Llama 3.1, arXiv 2407.21783)."""

    factor: PositiveFloat
    """What the longest wavelengths are multiplied by."""
    low_frequency_factor: PositiveFloat = 1.0
    """Wavelengths above original_max_sequence_length / low_frequency_factor are multiplied by
    factor."""
    high_frequency_factor: PositiveFloat = 4.0
    """Wavelengths below original_max_sequence_length / high_frequency_factor do not change."""
    original_max_sequence_length: PositiveInt = 8192
    """Longest sequence before the positions were stretched."""

    @model_validator(mode="after")
    def _frequencies_are_in_order(self) -> "RopeScalingConfig":
        if self.low_frequency_factor >= self.high_frequency_factor:
            raise ValueError(
                f"model.rope_scaling: low_frequency_factor={self.low_frequency_factor:g} is not "
                f"below high_frequency_factor={self.high_frequency_factor:g}; Llama 3 has 1 and 4"
            )
        return self


class ModelConfig(Section):
    """The model: GPT in the style of GPT-2 or of Llama, or BERT. The defaults are GPT-2's."""

    kind: ModelKind = "gpt"
    """gpt predicts the next token; bert predicts masked tokens, and whether one text follows
    another."""
    num_layers: PositiveInt
    """Transformer layers."""
    hidden_size: PositiveInt
    """Width of the residual stream."""
    num_heads: PositiveInt
    """Attention heads; divides hidden_size."""
    num_kv_heads: PositiveInt | None = None
    """Key and value heads (grouped-query attention); divides num_heads. When not given, it is
    num_heads."""
    ffn_hidden_size: PositiveInt | None = None
    """Width inside the feed-forward block. When not given: four times hidden_size with gelu, 8/3
    of it with swiglu, rounded up to a multiple of 256."""
    vocab_size: PositiveInt
    """Tokens of the tokenizer, special ones included."""
    vocab_multiple: PositiveInt = 128
    """The embedding is padded to a multiple of this; padded columns take no part in the loss."""
    max_sequence_length: PositiveInt
    """Longest sequence that the model can read."""
    positions: Literal["learned", "rope"] = "learned"
    """learned: a learned vector is added for each position; rope: queries and keys are rotated."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScalingConfig | None = None
    """Stretches rotary positions for longer sequences."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Kind of the norms."""
    norm_position: Literal["pre", "post"] = "pre"
    """pre: a norm before each block, and one after the last block. post, for BERT only: a norm of
    the embeddings, and one after each block and its residual, as in the first BERT (Devlin et al.,
    arXiv 1810.04805)."""
    activation: Literal["gelu", "swiglu"] = "gelu"
    """gelu: GPT-2's tanh approximation (BERT: the exact one); swiglu: gated SiLU."""
    biases: bool = True
    """Whether linear layers have biases."""
    qk_norm: bool = False
    """Whether queries and keys are normalized in each head."""
    tie_embeddings: bool = True
    """Whether the output layer uses the weights of the embedding."""
    dropout: Fraction = 0.0
    """Dropout of embeddings, attention weights and residual branches."""
    norm_epsilon: PositiveFloat = 1e-5
    """Added to the variance in each norm."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of initial weights; output projections divide it by sqrt(2·layers)."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"model.num_heads={self.num_heads} does not divide "
                f"model.hidden_size={self.hidden_size}; "
                f"try {divisors_near(self.hidden_size, self.num_heads)}"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"model.num_kv_heads={self.kv_heads} does not divide "
                f"model.num_heads={self.num_heads}; "
                f"try {divisors_near(self.num_heads, self.kv_heads)}"
            )
        return self

    @model_validator(mode="after")
    def _rotary_keys_go_with_rope(self) -> "ModelConfig":
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(
                f"model.positions=rope rotates pairs of numbers, and hidden_size/num_heads="
                f"{self.head_dim} is odd; choose another model.num_heads"
            )
        if self.positions != "rope":
            for key in ("rope_theta", "rope_scaling"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"model.{key} has no effect with model.positions={self.positions}; "
                        "leave it out or set model.positions=rope"
                    )
        return self

    @model_validator(mode="after")
    def _fixed_keys_are_left_out(self) -> "ModelConfig":
        for key in self.traits.fixed_keys:
            value, default = getattr(self, key), type(self).model_fields[key].default
            if value != default:
                raise ValueError(
                    f"model.{key}={value} cannot be set with model.kind={self.kind}; "
                    f"{self.traits.fixed_keys_reason}: leave it out"
                )
        return self

    @property
    def traits(self) -> ModelTraits:
        """The properties of this kind of model."""
        return MODEL_KINDS[self.kind]

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def feed_forward_size(self) -> int:
        """Width inside the feed-forward block."""
        if self.ffn_hidden_size is not None:
            return self.ffn_hidden_size
        if self.activation == "swiglu":
            return -(-self.hidden_size * 8 // (3 * 256)) * 256
        return 4 * self.hidden_size

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: vocab_size rounded up to vocab_multiple."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple
