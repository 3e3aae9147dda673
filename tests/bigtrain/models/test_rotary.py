"""Rotary positions: angles by position, and the published scaling of Llama 3."""

import math

import pytest
import torch

from bigtrain.config.model import ModelConfig
from bigtrain.models.rotary import RotaryTable, inverse_frequencies, rotate


def model(**keys: object) -> ModelConfig:
    """The config of a model with a head size of 128, like Llama 3's."""
    return ModelConfig.model_validate(
        {
            "num_layers": 1,
            "hidden_size": 256,
            "num_heads": 2,
            "vocab_size": 100,
            "max_sequence_length": 64,
            "positions": "rope",
            "rope_theta": 500000.0,
            **keys,
        }
    )


def test_frequencies_form_a_geometric_sequence_from_1() -> None:
    found = inverse_frequencies(model())
    assert found[0] == 1.0
    assert torch.allclose(found[1:] / found[:-1], torch.tensor(500000.0 ** (-1 / 64)))


def test_the_scaling_is_that_of_llama_3() -> None:
    plain = inverse_frequencies(model())
    stretched = inverse_frequencies(model(rope_scaling={"factor": 8.0}))
    wavelengths = 2 * math.pi / plain
    short, long = wavelengths < 8192 / 4, wavelengths > 8192
    assert short.any() and long.any()
    assert torch.equal(stretched[short], plain[short])
    assert torch.allclose(stretched[long], plain[long] / 8)
    between = ~short & ~long
    ratio = plain[between] / stretched[between]
    assert ((ratio > 1) & (ratio < 8)).all()
    assert (ratio.diff() > 0).all()


def test_angles_have_values_if_the_default_device_is_meta() -> None:
    with torch.device("meta"):
        assert not inverse_frequencies(model(rope_scaling={"factor": 8.0})).is_meta


def test_a_product_of_rotated_vectors_depends_only_on_their_distance() -> None:
    table = RotaryTable(model(), torch.float32)
    query, key = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))

    def product(at: int, to: int) -> float:
        turned = [
            rotate(vector.view(1, 1, 1, -1), table(torch.tensor([[place]])))
            for vector, place in ((query, at), (key, to))
        ]
        return float((turned[0] * turned[1]).sum())

    assert product(7, 3) == pytest.approx(product(57, 53), abs=1e-3)
    assert abs(product(7, 3) - product(7, 4)) > 0.1


def test_each_row_is_rotated_by_its_own_positions() -> None:
    table = RotaryTable(model(), torch.float32)
    positions = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 1]])
    table_rows = table(positions)
    assert table_rows.shape == (4, 2, 1, 128)
    assert torch.equal(table_rows[:2, 1], table_rows[2:, 1])
    shared = table(torch.arange(4).expand(2, 4))
    assert shared.shape == (4, 1, 1, 128)
    assert torch.equal(shared[:, 0], table_rows[:, 0])
