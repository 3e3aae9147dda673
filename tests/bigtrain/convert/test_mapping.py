"""Every kind of weight mapping is invertible."""

import pytest
import torch

from bigtrain.convert.mapping import (
    FusedQkv,
    GroupedQkv,
    Identity,
    PaddedRows,
    Rule,
    TensorMapping,
    Transposed,
    expand,
)


@pytest.mark.parametrize(
    ("mapping", "shape"),
    [
        (Identity(), (3, 4)),
        (Transposed(), (3, 4)),
        (FusedQkv(heads=4), (4 * 3 * 2, 8)),
        (FusedQkv(heads=4), (4 * 3 * 2,)),
        (GroupedQkv(heads=6, kv_heads=2), (10 * 2, 8)),
        (GroupedQkv(heads=6, kv_heads=2), (10 * 2,)),
        (GroupedQkv(heads=3, kv_heads=3), (9 * 4, 2)),
    ],
)
def test_a_mapping_and_its_inverse_give_the_same_tensor(
    mapping: TensorMapping, shape: tuple[int, ...]
) -> None:
    tensor = torch.randn(shape)
    theirs = mapping.to_hugging_face(tensor)
    assert torch.equal(mapping.from_hugging_face(theirs), tensor)
    assert torch.equal(mapping.to_hugging_face(mapping.from_hugging_face(theirs)), theirs)


def test_padding_is_dropped_and_comes_back_as_zeros() -> None:
    mapping = PaddedRows(vocab_size=3, padded_vocab_size=5)
    tensor = torch.randn(5, 2)
    back = mapping.from_hugging_face(mapping.to_hugging_face(tensor))
    assert torch.equal(back[:3], tensor[:3])
    assert back[3:].eq(0).all()


def test_fused_qkv_puts_all_queries_first_then_keys_then_values() -> None:
    # Row values are head·100 + (q, k, v)·10 + dimension.
    rows = [h * 100 + part * 10 + d for h in range(2) for part in range(3) for d in range(2)]
    found = FusedQkv(heads=2).to_hugging_face(torch.tensor(rows)).tolist()
    assert found == [0, 1, 100, 101, 10, 11, 110, 111, 20, 21, 120, 121]


def test_grouped_qkv_puts_all_queries_first_then_keys_then_values() -> None:
    # Row values are group·100 + (q, q, k, v)·10 + dimension.
    rows = [g * 100 + part * 10 + d for g in range(2) for part in range(4) for d in range(2)]
    found = GroupedQkv(heads=4, kv_heads=2).to_hugging_face(torch.tensor(rows)).tolist()
    queries = [0, 1, 10, 11, 100, 101, 110, 111]
    assert found == [*queries, 20, 21, 120, 121, 30, 31, 130, 131]


def test_a_split_tensor_is_joined_again() -> None:
    rule = Rule("ours", ("gate", "up"), Identity(), rows=(2, 2))
    tensor = torch.randn(4, 3)
    theirs = rule.to_hugging_face(tensor)
    assert torch.equal(theirs["gate"], tensor[:2]) and torch.equal(theirs["up"], tensor[2:])
    assert theirs["gate"].data_ptr() != tensor.data_ptr()
    assert torch.equal(rule.from_hugging_face(theirs), tensor)


def test_rules_are_written_out_for_each_layer() -> None:
    cut = Rule("x.{i}.y", ("p.{i}", "q.{i}"), Identity(), rows=(1, 1))
    rules = [Rule("a", "b", Identity()), Rule("x.{i}.y", "z.{i}", Identity()), cut]
    assert [(r.ours, r.theirs) for r in expand(rules, 2)] == [
        ("a", "b"),
        ("x.0.y", "z.0"),
        ("x.1.y", "z.1"),
        ("x.0.y", ("p.0", "q.0")),
        ("x.1.y", ("p.1", "q.1")),
    ]
