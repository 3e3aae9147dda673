"""The tokenizer of a Hugging Face folder as a tokenizer of ours."""

import logging
from pathlib import Path

from bigtrain.checkpoint.hugging_face_folder import ImportRefusal
from bigtrain.config.model import ModelConfig
from data_tools.errors import InputError
from data_tools.tokenizer import HARD_TEXTS, Tokenizer, load_tokenizer

log = logging.getLogger(__name__)

_JSON_FILE, _SENTENCEPIECE_FILE = "tokenizer.json", "tokenizer.model"
_END_OF_BERT = "[SEP]"


def load_their_tokenizer(
    folder: Path, model: ModelConfig, *, instead: Path | None = None
) -> Tokenizer:
    """Loads the tokenizer of a folder.

    ``tokenizer.json`` is used, as in transformers, unless a ``tokenizer.model`` beside it gives the
    same ids: then a corpus that was made with that file stays usable.

    Args:
        folder: The Hugging Face folder.
        model: The model; its vocabulary must have the size of the tokenizer's.
        instead: A file to use instead of the folder's.

    Raises:
        ImportRefusal: There is no tokenizer, or it has another size.
        InputError: It cannot be read.
    """
    files = [instead] if instead is not None else _files_in(folder)
    loaded = [_load(file, model) for file in files]
    fitting = [each for each in loaded if each.vocab_size == model.vocab_size]
    if not fitting:
        raise ImportRefusal(
            f"{loaded[0].path} has {loaded[0].vocab_size:,} tokens, and vocab_size in config.json "
            f"is {model.vocab_size:,}; give the model's own tokenizer with --tokenizer"
        )
    chosen = fitting[0]
    if len(fitting) == 2 and _give_equal_ids(*fitting):
        chosen = fitting[1]
    return chosen


def _files_in(folder: Path) -> list[Path]:
    candidates = (folder / _JSON_FILE, folder / _SENTENCEPIECE_FILE)
    files = [file for file in candidates if file.is_file()]
    if not files:
        raise ImportRefusal(
            f"{folder}: neither {_JSON_FILE} nor {_SENTENCEPIECE_FILE}; give the model's tokenizer "
            "with --tokenizer"
        )
    return files


def _load(file: Path, model: ModelConfig) -> Tokenizer:
    try:
        return load_tokenizer(file)
    except InputError:
        if not model.traits.reads_pairs:
            raise
        # BERT's tokenizers have no end of a document: the end of a sentence serves as one.
        tokenizer = load_tokenizer(file, special={"eos": _END_OF_BERT})
        log.warning("%s has no token that ends a document; %s is used", file, _END_OF_BERT)
        return tokenizer


def _give_equal_ids(one: Tokenizer, other: Tokenizer) -> bool:
    try:
        return all(one.encode(t).tolist() == other.encode(t).tolist() for t in HARD_TEXTS)
    except InputError:
        return False
