"""Writes a checkpoint as a Hugging Face folder, and keeps it only if its outputs match."""

import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, GenerationConfig

from bigtrain.checkpoint.commit import open_state
from bigtrain.checkpoint.find_checkpoint import find_checkpoint
from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import TOKENIZER_FILE, WEIGHT, TrainState
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.config import RunConfig
from bigtrain.config.model import ModelConfig
from bigtrain.config.resume_rules import load_saved_config, load_saved_model
from bigtrain.convert.config_json import write_config
from bigtrain.convert.families import ExportError, class_of, family_of
from bigtrain.convert.layer_loop import build_layer_by_layer
from bigtrain.convert.logit_check import (
    TOLERANCE,
    LogitComparison,
    compare_logits,
    token_sequences,
)
from bigtrain.convert.mapping import expand
from bigtrain.convert.model_card import CARD_FILE, CardFacts, render_card
from bigtrain.convert.safetensors_writer import DEFAULT_SHARD_BYTES, write_shards
from bigtrain.convert.special_ids import ids_of_model
from bigtrain.convert.their_weights import TheirWeights
from bigtrain.convert.tokenizer_check import compare_tokenizers
from bigtrain.convert.tokenizer_files import write_tokenizer
from bigtrain.models.translate import DTYPES
from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.tokenizer import HARD_TEXTS, Tokenizer, load_tokenizer

log = logging.getLogger(__name__)

REAL_DOCUMENTS = 8
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class Export:
    """What was written, and how its logits compare with the checkpoint's."""

    folder: Path
    parameters: int
    dtype: str
    files: int
    """Files of weights."""
    logits: LogitComparison
    hard_texts: int
    real_texts: int


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """A checkpoint with its state, config and tokenizer."""

    folder: Folder
    state: TrainState
    model: ModelConfig
    config: RunConfig | None
    """None of an import, which no run has saved."""
    tokenizer: Tokenizer


def open_checkpoint(path: str | Path) -> OpenedCheckpoint:
    """Opens a checkpoint, or the newest one of a run folder; a path or an fsspec URL.

    Raises:
        CheckpointError: There is none, or it is not complete.
    """
    folder, skipped = find_checkpoint(path)
    for line in skipped:
        log.warning(line)
    state = open_state(folder)
    with tempfile.TemporaryDirectory(prefix="bigtrain-") as temporary:
        tokenizer = Path(temporary) / TOKENIZER_FILE
        tokenizer.write_bytes(folder.read(TOKENIZER_FILE))
        return OpenedCheckpoint(
            folder=folder,
            state=state,
            model=load_saved_model(state.config),
            config=load_saved_config(state.config) if state.has_moments else None,
            tokenizer=load_tokenizer(tokenizer),
        )


def export_hugging_face(
    path: str | Path,
    out: str | Path,
    *,
    texts: Sequence[str] = (),
    precision: Precision = "fp32",
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    losses_of: Callable[[int], Mapping[str, float]] = lambda _: {},
) -> Export:
    """Writes config, safetensors, tokenizer and model card, verified against the checkpoint.

    Args:
        path: A checkpoint or a run folder; a path or an fsspec URL.
        out: The folder to create; it must not exist.
        texts: Real texts to compare logits and token ids on.
        precision: The type of the weights in the files; for bf16 they are rounded.
        max_shard_bytes: Largest size of a file of weights.
        losses_of: Returns the run's losses at a step, for the model card.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        ExportError: ``out`` exists or is a URL, transformers has no such model, or what was
            written differs from the checkpoint.
    """
    if "://" in str(out):
        raise ExportError(
            f"{out}: an export is verified on a disk; give a local folder, and copy it afterwards"
        )
    out = Path(out)
    if out.exists():
        raise ExportError(f"{out} exists already; remove it or export to another folder")
    dtype = DTYPES[precision]
    checkpoint = open_checkpoint(path)
    family_of(checkpoint.model)
    real = (*texts, *_corpus_texts(checkpoint))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    temporary.chmod(0o755)
    try:
        parameters = write_model(
            checkpoint, temporary, dtype=dtype, max_shard_bytes=max_shard_bytes
        )
        found = _verify(checkpoint, temporary, (*HARD_TEXTS, *real), dtype=dtype)
        done = Export(
            folder=out,
            parameters=parameters,
            dtype=str(dtype).removeprefix("torch."),
            files=len(list(temporary.glob("*.safetensors"))),
            logits=found,
            hard_texts=len(HARD_TEXTS),
            real_texts=len(real),
        )
        losses = losses_of(checkpoint.state.step)
        (temporary / CARD_FILE).write_text(_card(checkpoint, done, losses), "utf-8")
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return done


def _card(checkpoint: OpenedCheckpoint, done: Export, losses: Mapping[str, float]) -> str:
    facts = CardFacts(
        name=done.folder.name,
        architecture=class_of(checkpoint.model),
        dtype=done.dtype,
        losses=losses,
        verified=f"largest logit difference from the checkpoint {done.logits.largest:.3g} over "
        f"{done.logits.compared:,} logits (fp32); all tensors and the tokenizer are equal",
    )
    return render_card(checkpoint.state, checkpoint.model, facts)


def render_export(export: Export) -> Iterator[str]:
    """Renders the lines for the terminal."""
    logits = export.logits
    how = "fp32, layer by layer" if logits.layer_by_layer else "fp32"
    files = "1 file" if export.files == 1 else f"{export.files} files"
    yield (
        f"{export.folder}: {export.parameters:,} parameters in {files} of {export.dtype}; largest "
        f"logit difference {logits.largest:.3g} over {logits.compared:,} logits ({how}), "
        f"tokenizer equal, on {export.hard_texts} hard and {export.real_texts} real texts"
    )
    if export.real_texts == 0:
        yield "the run's corpus was not found, so no real text was compared; give one with --text"


def write_model(
    checkpoint: OpenedCheckpoint,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> int:
    """Writes config, weights and tokenizer, one tensor in memory at a time.

    Args:
        checkpoint: The checkpoint.
        folder: Where to write.
        dtype: The type of the weights in the files.
        max_shard_bytes: Largest size of a file of weights.

    Returns:
        The number of parameters.
    """
    model = checkpoint.model
    special = checkpoint.tokenizer.special
    family = family_of(model)
    tensors = _Exported(checkpoint)
    write_shards(
        folder, tensors.shapes, tensors.read(), dtype=dtype, max_shard_bytes=max_shard_bytes
    )
    write_config(family.config(model, special), folder, dtype=str(dtype).removeprefix("torch."))
    if family.generates:
        GenerationConfig(**ids_of_model(model.kind, special)).save_pretrained(folder)
    write_tokenizer(
        checkpoint.tokenizer, folder, kind=model.kind, max_length=model.max_sequence_length
    )
    return sum(math.prod(shape) for shape in tensors.shapes.values())


class _Exported:
    """Their tensors, made of a checkpoint's, one of ours in memory at a time."""

    def __init__(self, checkpoint: OpenedCheckpoint) -> None:
        model = checkpoint.model
        self._table = CheckpointReader(checkpoint.folder)
        self._rules = list(expand(family_of(model).rules(model), model.num_layers))
        if unused := set(self._table.names(WEIGHT)) - {rule.ours for rule in self._rules}:
            raise ExportError(
                f"{checkpoint.folder}: transformers' model has no tensor for {sorted(unused)[0]}"
            )
        self.shapes: dict[str, tuple[int, ...]] = {}
        for rule in self._rules:
            ours = self._table.shape(WEIGHT, rule.ours)
            theirs = rule.to_hugging_face(torch.empty(ours, device="meta"))
            self.shapes |= {name: tuple(tensor.shape) for name, tensor in theirs.items()}

    def read(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Their names and tensors, in the order of ``shapes``, in fp32."""
        for rule in self._rules:
            ours = torch.from_numpy(self._table.read_tensor(WEIGHT, rule.ours))
            yield from rule.to_hugging_face(ours).items()


def _corpus_texts(checkpoint: OpenedCheckpoint) -> list[str]:
    """A few documents of the run's corpus; none if it is not at its path any more."""
    if checkpoint.config is None:
        return []
    data = checkpoint.config.data
    length = checkpoint.model.max_sequence_length
    try:
        corpus = open_corpus(next(iter((*data.validation_corpora, *data.training_corpora))))
    except InputError:
        return []
    with corpus:
        if corpus.manifest.tokenizer.sha256 != checkpoint.tokenizer.sha256:
            return []
        documents = list(corpus.documents(REAL_DOCUMENTS))
    return [checkpoint.tokenizer.decode(document[:length]) for document in documents]


def _verify(
    checkpoint: OpenedCheckpoint, folder: Path, texts: Sequence[str], *, dtype: torch.dtype
) -> LogitComparison:
    """Compares tensors, tokenizer and logits.

    Raises:
        ExportError: A tensor is not what was to be written, the tokenizer differs on a text, or a
            logit differs by more than the tolerance.
    """
    _compare_tensors(checkpoint, folder, dtype)
    found = compare_tokenizers(checkpoint.tokenizer, folder, texts, kind=checkpoint.model.kind)
    if found.wrong:
        raise ExportError(
            f"the exported tokenizer differs in {len(found.wrong)} cases on {len(texts)} texts; "
            f"the first is {found.wrong[0]}; nothing was kept"
        )
    if found.tolerated:
        log.warning(
            "the exported tokenizer splits %d of %d texts differently from SentencePiece, first in "
            "%s: both splits have the same score except for rounding, or a rare sequence of "
            "combining marks is normalised differently",
            len(found.tolerated),
            len(texts),
            found.tolerated[0],
        )
    model = checkpoint.model
    sequences = token_sequences(checkpoint.tokenizer, texts, max_length=model.max_sequence_length)
    found_logits = compare_logits(
        checkpoint.folder,
        model,
        lambda slowly: _load_export(model, folder, slowly),
        sequences,
        rounding=dtype,
    )
    if not found_logits.is_equal:
        raise ExportError(
            f"the exported model's logits differ from the checkpoint's by up to "
            f"{found_logits.largest:.3g}, more than {TOLERANCE:g}; nothing was kept"
        )
    return found_logits


def _compare_tensors(checkpoint: OpenedCheckpoint, folder: Path, dtype: torch.dtype) -> None:
    """Reads every tensor back with the library, one at a time."""
    written = TheirWeights(folder, architecture=class_of(checkpoint.model)).tensors
    for name, tensor in _Exported(checkpoint).read():
        found = written[name]
        if found.dtype != dtype or not torch.equal(found.read(), tensor.to(dtype).float()):
            raise ExportError(
                f"{found.file.name}: {name} is not what was written; nothing was kept"
            )


def _load_export(model: ModelConfig, folder: Path, slowly: bool) -> Any:
    loader = family_of(model).loader
    if not slowly:
        return loader.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
    tensors = TheirWeights(folder, architecture=class_of(model)).tensors
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return build_layer_by_layer(loader, config, lambda name: tensors[name].read())
