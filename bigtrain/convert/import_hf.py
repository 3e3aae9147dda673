"""Makes a checkpoint of a Hugging Face folder, and keeps it only if its outputs match.

The tables of the export are read backwards, tensor by tensor. The checkpoint holds weights and no
moments; a run that loads it begins at step 0.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from bigtrain.checkpoint.hugging_face_folder import CONFIG_FILE, ImportRefusal, fingerprint
from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import WEIGHT, TrainState
from bigtrain.checkpoint.storage_folder import DiskFolder, Folder
from bigtrain.checkpoint.writing import finish_checkpoint, write_boxes
from bigtrain.config.yaml12 import render_yaml
from bigtrain.convert.import_plan import ImportPlan, plan_import
from bigtrain.convert.import_source import ImportSource
from bigtrain.convert.layer_loop import build_layer_by_layer
from bigtrain.convert.logit_check import (
    TOLERANCE,
    LogitComparison,
    compare_logits,
    token_sequences,
)
from bigtrain.convert.mapping import Rule
from bigtrain.convert.their_config import TheirModel, read_their_model
from bigtrain.convert.their_tokenizer import load_their_tokenizer
from bigtrain.convert.their_weights import TheirWeights
from bigtrain.plan.parameters import count_parameters
from data_tools.files import sync_path
from data_tools.tokenizer import HARD_TEXTS, Tokenizer

log = logging.getLogger(__name__)

MODEL_FILE = "model.yaml"
"""The model section of a run's config, beside the checkpoint's files."""


@dataclass(frozen=True, slots=True)
class Import:
    """What was imported."""

    folder: Path
    architecture: str
    parameters: int
    """Weights, without padding of the vocabulary."""
    tokenizer: Path
    anew: tuple[str, ...]
    """Names of theirs that the folder lacks; ours have initial values."""
    unused: tuple[str, ...]
    """Names of theirs that no output depends on, and buffers."""
    logits: LogitComparison


def import_hugging_face(
    folder: Path, out: str | Path, *, tokenizer_file: Path | None = None, seed: int = 1
) -> Import:
    """Writes a checkpoint of weights and verifies it against the folder.

    Args:
        folder: Holds config.json, safetensors and a tokenizer; no code from it is run.
        out: The checkpoint to create; it must not exist.
        tokenizer_file: The tokenizer, if it is not the one in the folder.
        seed: Determines the initial values of heads that the folder lacks.

    Raises:
        ImportRefusal: The folder is not a model that bigtrain computes, or what was written
            differs from it; nothing is left.
        InputError: The tokenizer cannot be read.
    """
    if "://" in str(out):
        raise ImportRefusal(
            f"{out}: an import is verified on a disk; give a local folder, and copy it afterwards"
        )
    out = Path(out)
    if out.exists():
        raise ImportRefusal(f"{out} exists already; remove it or import to another folder")
    their = read_their_model(folder)
    tokenizer = load_their_tokenizer(folder, their.model, instead=tokenizer_file)
    weights = TheirWeights(folder, architecture=their.saved_architecture)
    plan = plan_import(their, weights)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    temporary.chmod(0o755)
    try:
        source = ImportSource(folder, their, plan, seed)
        found = _write_and_verify(source, tokenizer, temporary)
        temporary.rename(out)
        sync_path(out.parent)
    except SafetensorError as error:
        raise ImportRefusal(
            f"{folder}: a tensor cannot be read ({error}); download it again"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Import(
        folder=out,
        architecture=their.architecture,
        parameters=count_parameters(their.model).total,
        tokenizer=tokenizer.path,
        anew=tuple(sorted(plan.anew)),
        unused=(*plan.unused, *sorted(weights.buffers)),
        logits=found,
    )


def render_import(done: Import) -> Iterator[str]:
    """Renders the lines for the terminal."""
    how = "layer by layer" if done.logits.layer_by_layer else "as a whole"
    yield (
        f"{done.folder}: {done.parameters:,} parameters of a {done.architecture}; all tensors "
        f"equal, largest logit difference {done.logits.largest:.3g} over {done.logits.compared:,} "
        f"logits (fp32, {how})"
    )
    if done.anew:
        yield f"{_count(done.anew)} not in the folder, so they begin anew: {', '.join(done.anew)}"
    if done.unused:
        yield f"{_count(done.unused)} left out, no output needs them: {', '.join(done.unused)}"
    yield (
        f"shard a corpus with --tokenizer {done.folder / 'tokenizer.model'}, then train: bigtrain "
        f"launch RUN.yaml {done.folder / MODEL_FILE} checkpoint.load={done.folder}"
    )


def _count(names: Sequence[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _write_and_verify(source: ImportSource, tokenizer: Tokenizer, place: Path) -> LogitComparison:
    model = source.their.model
    section = {"model": model.model_dump(mode="json")}
    folder = DiskFolder(place)
    for name, target in source.plan.same.items():
        _check_equal(source.plan, name, target)
    write_boxes(folder, source.boxes(), rank=0)
    state = TrainState(
        step=0,
        samples=0,
        tokens=0,
        optimizer_steps=0,
        data_stages=[],
        config=section,
        tokenizer_sha256=tokenizer.sha256,
        origin=describe_origin(source.folder, source.their, anew=sorted(source.plan.anew)),
    )
    written = finish_checkpoint(
        folder,
        parent=DiskFolder(place.parent),
        world_size=1,
        state=state,
        tokenizer=tokenizer.content,
    )
    (place / MODEL_FILE).write_text(render_yaml(section), "utf-8")
    _compare_tensors(source, written)
    return _compare_logits(source, written, tokenizer)


def describe_origin(folder: Path, their: TheirModel, *, anew: Sequence[str]) -> dict[str, Any]:
    """Where the weights of an import come from, for its state."""
    return {
        "folder": str(folder.resolve()),
        "architecture": their.architecture,
        "fingerprint": fingerprint(folder),
        "begun_anew": list(anew),
    }


def _check_equal(plan: ImportPlan, name: str, target: str) -> None:
    one, other = plan.tensors[name], plan.tensors[target]
    if not torch.equal(one.read(), other.read()):
        raise ImportRefusal(
            f"{one.file}: {name} is not {target}, and {CONFIG_FILE} says that they are the same "
            "(tie_word_embeddings=true); set tie_word_embeddings to false if both were trained"
        )


def _compare_tensors(source: ImportSource, checkpoint: Folder) -> None:
    """Checks that the export's tables give back every bit of the folder's tensors."""
    reader = CheckpointReader(checkpoint)
    total = count_parameters(source.their.model).padded_total
    if reader.count(WEIGHT) != total:
        raise ImportRefusal(
            f"{source.folder}: {reader.count(WEIGHT):,} weights were read, and the model of "
            f"{CONFIG_FILE} has {total:,}; nothing was kept"
        )
    for rule in source.plan.rules:
        if source.plan.begins_anew(rule):
            continue
        shape = source.plan.our_shape(rule)
        if source.has_their_rows(rule, shape):
            key = f"{WEIGHT}/{rule.ours}"
            for _, box, values in reader.read((key, box) for box in reader.tensors[key].boxes):
                rows = source.rows(rule, box.offset[0], box.offset[0] + box.shape[0])
                _check_bits(rule.their_names[0], torch.from_numpy(values), rows)
            continue
        ours = torch.from_numpy(reader.read_tensor(WEIGHT, rule.ours))
        for name, tensor in rule.to_hugging_face(ours).items():
            _check_bits(name, tensor, source.read(name))


def _check_bits(name: str, back: torch.Tensor, theirs: torch.Tensor) -> None:
    if back.shape != theirs.shape or not torch.equal(
        back.contiguous().view(torch.int32), theirs.contiguous().view(torch.int32)
    ):
        raise ImportRefusal(
            f"{name} does not come back equal from the checkpoint; nothing was kept"
        )


def _compare_logits(
    source: ImportSource, checkpoint: Folder, tokenizer: Tokenizer
) -> LogitComparison:
    model = source.their.model
    by_name = _our_rules(source)
    reader = CheckpointReader(checkpoint)

    def read(name: str) -> torch.Tensor:
        if name not in source.plan.anew:
            return source.plan.tensors[name].read()
        rule = by_name[name]
        ours = torch.from_numpy(reader.read_tensor(WEIGHT, rule.ours))
        return rule.to_hugging_face(ours)[name]

    def build(slowly: bool) -> Any:
        loader, config = source.their.family.loader, source.their.config
        if slowly:
            return build_layer_by_layer(loader, config, read)
        theirs = loader.from_pretrained(
            source.folder, config=config, dtype=torch.float32, use_safetensors=True
        ).eval()
        theirs.load_state_dict({name: read(name) for name in source.plan.anew}, strict=False)
        return theirs

    sequences = token_sequences(tokenizer, HARD_TEXTS, max_length=model.max_sequence_length)
    found = compare_logits(checkpoint, model, build, sequences)
    if not found.is_equal:
        raise ImportRefusal(
            f"{source.folder}: the logits of the imported model differ from transformers' by up to "
            f"{found.largest:.3g}, more than {TOLERANCE:g}; nothing was kept"
        )
    return found


def _our_rules(source: ImportSource) -> Mapping[str, Rule]:
    return {name: rule for rule in source.plan.rules for name in rule.their_names}
