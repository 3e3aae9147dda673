"""Fixtures for all tests, and the order in which test files run."""

from pathlib import Path

import pytest

from tests.runs import make_corpus, make_pair_corpus

LONGEST_FIRST = ("test_readme.py", "distributed/")
"""Files that take long, in the order in which two processes should take them up."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders long files first, so that two processes finish at about the same time."""
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(tests).as_posix()
        starts = [name.startswith(start) for start in LONGEST_FIRST]
        return starts.index(True) if any(starts) else len(starts)

    items.sort(key=place)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny corpus with a validation split, made once per test run."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def pair_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny corpus with a validation split and sentence pairs, for BERT."""
    return make_pair_corpus(tmp_path_factory.mktemp("pair_corpus"))
