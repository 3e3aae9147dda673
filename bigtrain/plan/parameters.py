"""Counts the weights of a model, by module, from its config."""

from dataclasses import dataclass

from bigtrain.config.model import ModelConfig

TOKEN_TYPES = 2
"""BERT's token types: the first and the second sentence."""


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """The weights of a model, by module and in total, in any layout; tied weights count once."""

    modules: dict[str, int]
    """Weights by module, over all layers, without vocabulary padding."""
    padding: int
    """Weights of padded vocabulary rows, which exist in training and not in an export."""

    @property
    def total(self) -> int:
        """The size of the model as published, without padding."""
        return sum(self.modules.values())

    @property
    def padded_total(self) -> int:
        """The number of weights in training, with padding."""
        return self.total + self.padding


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """Counts the weights of every module.

    Args:
        model: The model's config.
    """
    hidden, heads = model.hidden_size, _heads(model)
    modules = {"embedding": model.vocab_size * hidden}
    if model.positions == "learned":
        modules["positions"] = model.max_sequence_length * hidden
    if model.traits.reads_pairs:
        modules["token_types"] = TOKEN_TYPES * hidden
    modules |= {name: size * model.num_layers for name, size in _layer(model).items()}
    # The norm that no layer owns: of the embeddings, or after the last layer.
    outer = "embedding_norm" if model.norm_position == "post" else "final_norm"
    modules[outer] = _norm(model, hidden)
    # Weights of a padded vocabulary row: embedding, untied output layer, BERT's output bias.
    row = hidden * (1 if model.tie_embeddings else 2) + (1 if model.traits.reads_pairs else 0)
    padded_rows = model.padded_vocab_size - model.vocab_size
    return ParameterCounts(modules | heads, padding=padded_rows * row)


def _layer(model: ModelConfig) -> dict[str, int]:
    hidden, inner = model.hidden_size, model.feed_forward_size
    columns = model.head_dim * (model.num_heads + 2 * model.kv_heads)
    inner_columns = inner * (2 if model.activation == "swiglu" else 1)
    bias = int(model.biases)
    return {
        "norms": 2 * _norm(model, hidden) + (2 * _norm(model, model.head_dim) * model.qk_norm),
        "qkv": (hidden + bias) * columns,
        "attention_output": (hidden + bias) * hidden,
        "feed_forward": (hidden + bias) * inner_columns + (inner + bias) * hidden,
    }


def _heads(model: ModelConfig) -> dict[str, int]:
    hidden, vocabulary = model.hidden_size, model.vocab_size
    modules = {} if model.tie_embeddings else {"vocabulary": hidden * vocabulary}
    if model.traits.reads_pairs:
        modules["vocabulary_bias"] = vocabulary
        modules["masked_token_head"] = (hidden + 1) * hidden + _norm(model, hidden)
        modules["pooler"] = (hidden + 1) * hidden
        modules["sentence_head"] = (hidden + 1) * 2
    return modules


def _norm(model: ModelConfig, width: int) -> int:
    return width * (2 if model.norm == "layernorm" else 1)
