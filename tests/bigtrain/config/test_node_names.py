"""Lists of nodes and ranks in short form."""

import pytest

from bigtrain.config.node_names import compress_names, compress_numbers


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["n1"], "n1"),
        (["n2", "n1", "n3", "n7"], "n[1-3,7]"),
        (["n001", "n002", "n010"], "n[001-002,010]"),
        (["n1", "n01"], "n1,n01"),
        (["a1", "b1", "login", "a2"], "a[1-2],b1,login"),
        (["10.0.0.1", "10.0.0.2"], "10.0.0.[1-2]"),
        ([], ""),
    ],
)
def test_names_are_compressed(names: list[str], text: str) -> None:
    assert compress_names(names) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([3, 0, 1, 2, 7], "0-3,7"), ([5], "5"), ([0, 1], "0-1"), ([3, 9, 10, 11], "3,9-11"), ([], "")],
)
def test_numbers_are_compressed(numbers: list[int], text: str) -> None:
    assert compress_numbers(numbers) == text
