"""What all tests share."""

from pathlib import Path

import pytest

from tests.runs import make_corpus, make_pair_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny corpus with a validation split, made once."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def pair_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with sentence pairs, for BERT."""
    return make_pair_corpus(tmp_path_factory.mktemp("pair_corpus"))
