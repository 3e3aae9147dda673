"""Whether corpora, tokenizer and model belong together: asked before any rank starts. No torch."""

from pathlib import Path

from bigtrain.config import ConfigError, RunConfig
from data_tools.corpus import open_corpus
from data_tools.tokenizer import Tokenizer, load_tokenizer


def check_data(config: RunConfig) -> Tokenizer:
    """Opens what ``config.data`` names and checks that it fits together and fits the model.

    Returns:
        The run's tokenizer.

    Raises:
        ConfigError: A corpus is too short, its tokenizer is another one, or the vocabulary differs.
        InputError: A corpus or the tokenizer cannot be read.
    """
    path = Path(config.data.tokenizer or Path(config.data.train) / "tokenizer.model")
    made_with = {}
    for key, folder in (("train", config.data.train), ("validation", config.data.validation)):
        if folder is not None:
            with open_corpus(Path(folder)) as corpus:
                corpus.check_files()
                count_windows(corpus.num_tokens, config.data.sequence_length, name=folder)
                made_with[f"data.{key}={folder}"] = corpus.manifest.tokenizer.sha256
    tokenizer = load_tokenizer(path)
    for name, sha256 in made_with.items():
        if sha256 != tokenizer.sha256:
            raise ConfigError(
                f"{name}: made with tokenizer {sha256[:12]}, but {path} is "
                f"{tokenizer.sha256[:12]}; use the corpus's own tokenizer or shard the text again"
            )
    if tokenizer.vocab_size != config.model.vocab_size:
        raise ConfigError(
            f"model.vocab_size={config.model.vocab_size}: the tokenizer {path} has "
            f"{tokenizer.vocab_size} tokens; set model.vocab_size={tokenizer.vocab_size}"
        )
    return tokenizer


def count_windows(num_tokens: int, sequence_length: int, *, name: str) -> int:
    """Windows of ``sequence_length`` tokens, each with the token after it, in a stream.

    Raises:
        ConfigError: There is not even one.
    """
    count = (num_tokens - 1) // sequence_length
    if count < 1:
        raise ConfigError(
            f"{name}: the corpus has {num_tokens} tokens, fewer than one sample of "
            f"data.sequence_length={sequence_length} and its target; shorten it or add text"
        )
    return count
