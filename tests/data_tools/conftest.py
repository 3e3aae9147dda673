"""Fixtures of this folder: small texts, a tokenizer trained on them, and a corpus."""

from pathlib import Path

import pytest

from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from data_tools.tokenizer import Tokenizer, train_tokenizer
from tests.data_tools.small_texts import write_texts


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    return write_texts(tmp_path_factory.mktemp("text") / "stories", 60)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory, texts) -> Tokenizer:
    out = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    documents = [path.read_text(encoding="utf-8") for path in sorted(texts.iterdir())]
    return train_tokenizer(documents, out, vocab_size=450)


@pytest.fixture(scope="session")
def sharded(tmp_path_factory, texts, tokenizer) -> Path:
    """A finished corpus with a train and a validation split of several shards and packs."""
    out = tmp_path_factory.mktemp("sharded") / "corpus"
    shard_corpus(
        [str(texts)],
        tokenizer=tokenizer.path,
        out=out,
        options=ShardOptions(validation_percent=20, task_bytes=3000, pack_tokens=100),
    )
    return out
