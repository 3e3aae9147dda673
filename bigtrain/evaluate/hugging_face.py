"""Evaluates an exported Hugging Face folder with transformers, in this process."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from bigtrain.evaluate.figures import EvaluationError, TokenSums
from bigtrain.evaluate.progress import show_samples
from bigtrain.evaluate.request import EvaluatedCorpus, check_named_once, describe_corpus
from bigtrain.evaluate.samples import to_microbatch
from bigtrain.evaluate.text_bytes import count_text
from bigtrain.evaluate.windows import Windows
from bigtrain.models.translate import DTYPES
from bigtrain.parallel.device import device_kind
from data_tools.corpus import Corpus, open_corpus
from data_tools.tokenizer import HARD_TEXTS, Tokenizer, equally_likely, load_tokenizer

_COMPARED_DOCUMENTS = 8
_TOKENS_AT_ONCE = 8192


class ExportedModel:
    """A folder that transformers loads as a model that predicts the next token."""

    def __init__(self, folder: Path, *, length: int | None, precision: str) -> None:
        """Loads the model.

        Args:
            folder: The folder; only safetensors are read, and no code in it is run.
            length: Tokens in a window; None takes all that the model reads.
            precision: ``fp32`` or ``bf16``.

        Raises:
            EvaluationError: The folder is no such model, or the model reads fewer tokens.
        """
        self.folder = folder
        disable_progress_bar()  # Ours shows the time that counts.
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise _unloadable(folder, error) from error
        self.architecture = (config.architectures or [""])[0]
        if not self.architecture.endswith(("CausalLM", "LMHeadModel")):
            raise EvaluationError(
                f"{folder}: a {self.architecture} does not predict the next token; of a BERT, "
                "give the run folder or a checkpoint"
            )
        limit = getattr(config, "max_position_embeddings", None)
        if length is None and limit is None:
            raise EvaluationError(
                f"{folder}/config.json has no max_position_embeddings; give --length"
            )
        if length is not None and limit is not None and length > limit:
            raise EvaluationError(
                f"--length {length} is more than the {limit} tokens that {folder} reads; "
                f"give at most {limit}"
            )
        self.length = int(length or limit)
        self._device = torch.device(device_kind("auto"))
        self._tokenizer = _load(
            folder, lambda place: AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        )
        model = _load(
            folder,
            lambda place: AutoModelForCausalLM.from_pretrained(
                place, dtype=DTYPES[precision], use_safetensors=True, trust_remote_code=False
            ),
        )
        self._model = model.to(self._device).eval()

    def evaluate(
        self, names: Sequence[str], *, stride: int
    ) -> tuple[list[EvaluatedCorpus], list[dict[str, float]]]:
        """Measures the model on corpora.

        Args:
            names: Folders or URLs of the corpora.
            stride: Tokens from one window to the next.

        Returns:
            The corpora, and the figures of each and of all together.

        Raises:
            EvaluationError: A corpus is empty, is named twice, or was made with another tokenizer.
            InputError: A corpus cannot be read.
        """
        found: list[EvaluatedCorpus] = []
        with ExitStack() as opened:
            corpora: list[tuple[Corpus, Tokenizer]] = []
            for name in names:
                corpus = opened.enter_context(open_corpus(name))
                described = describe_corpus(corpus, name)
                check_named_once(described, found)
                found.append(described)
                corpora.append((corpus, self._check_tokenizer(corpus, name)))
            sums = [
                self._measure(name, corpus, tokenizer, stride=stride)
                for name, (corpus, tokenizer) in zip(names, corpora, strict=True)
            ]
        total = sum(sums, start=TokenSums())
        return found, [each.figures() for each in (*sums, total)]

    @torch.no_grad()
    def _measure(
        self, name: str, corpus: Corpus, tokenizer: Tokenizer, *, stride: int
    ) -> TokenSums:
        windows = Windows(corpus, self.length, stride, tokenizer.special)
        at_once = max(1, _TOKENS_AT_ONCE // self.length)
        loss, tokens, ends, size = 0.0, 0, 0, 0
        with show_samples(name, windows.count, is_shown=True) as advance:
            for first in range(0, windows.count, at_once):
                numbers = range(first, min(first + at_once, windows.count))
                everything = np.ones(len(numbers), dtype=np.bool_)
                batch = to_microbatch(windows.read(numbers), everything)
                ids = batch.tokens.to(self._device)
                # All ones: padding only follows the tokens that count, so no token reads it.
                logits = self._model(ids, attention_mask=torch.ones_like(ids)).logits
                for row, targets, weights in zip(logits, batch.targets, batch.weights, strict=True):
                    lost = torch.nn.functional.cross_entropy(
                        row.float(), targets.to(self._device), reduction="none"
                    )
                    loss += float((lost * weights.to(self._device)).double().sum())
                    tokens += int(weights.sum())
                counted = count_text([batch], tokenizer)
                size, ends = size + counted[0], ends + counted[1]
                advance(len(numbers))
        return TokenSums(loss, tokens, ends, size)

    def _check_tokenizer(self, corpus: Corpus, name: str) -> Tokenizer:
        """Returns the tokenizer of a corpus, if it is the model's.

        An export has a changed copy of a `tokenizer.json`, so that hashes alone do not decide.
        """
        info = corpus.manifest.tokenizer
        ours = load_tokenizer(corpus.local_file(info.file))
        files = (self.folder / file for file in ("tokenizer.model", "tokenizer.json"))
        hashes = {hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}
        if info.sha256 in hashes:
            return ours
        difference = self._find_difference(ours, corpus)
        if difference is not None:
            raise EvaluationError(
                f"{name}: made with another tokenizer ({info.sha256[:12]}) than that of "
                f"{self.folder}: {difference}; shard the text with the model's tokenizer"
            )
        return ours

    def _find_difference(self, ours: Tokenizer, corpus: Corpus) -> str | None:
        if self._tokenizer.eos_token_id != ours.special.eos:
            return (
                f"the id of the end of a document is {ours.special.eos}, the model's "
                f"{self._tokenizer.eos_token_id}"
            )
        values = ours.tokenizer_json()
        documents = [ours.decode(each) for each in corpus.documents(_COMPARED_DOCUMENTS)]
        for text in (*documents, *HARD_TEXTS):
            ids = ours.encode(text).tolist()
            theirs = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
            other = theirs["input_ids"]
            if ids != other and not (values and equally_likely(values, ids, other)):
                return f"{text[:24]!r} has other ids"
        return None


def _load(folder: Path, load: Callable[[Path], Any]) -> Any:
    from safetensors import SafetensorError

    try:
        return load(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unloadable(folder, error) from error


def _unloadable(folder: Path, error: Exception) -> EvaluationError:
    reason = " ".join(str(error).split())[:200]
    return EvaluationError(f"{folder}: cannot be loaded ({reason}); export it again")
