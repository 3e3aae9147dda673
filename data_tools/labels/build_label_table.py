"""The job that makes label tables: reads records once, then writes a manifest for each split.

Everything is written into a temporary folder beside the output, which is renamed at the end: the
output appears complete or not at all.
"""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.array_files import FileInfo
from data_tools.errors import InputError
from data_tools.files import file_sha256, sync_path, write_file
from data_tools.jobs.completion_markers import has_size
from data_tools.jobs.job_file import describe_changes
from data_tools.jobs.output_folder import LOCK_NAME, only_writer
from data_tools.jobs.tool_version import tool_version
from data_tools.labels.answer_rows import AnswerRowMaker, ChatRowMaker
from data_tools.labels.check_rows import RowCounts, check_lengths, check_splits, order_labels
from data_tools.labels.label_inputs import HashedFile, find_inputs, hash_inputs
from data_tools.labels.label_options import LabelOptions, check_label_options
from data_tools.labels.label_rows import LabelledRowMaker, LabelRow, LengthLimit, RowMaker
from data_tools.labels.label_table import (
    CHAT_TEMPLATE_NAME,
    MANIFEST_NAME,
    LabelCount,
    LabelInput,
    LabelsManifest,
    Split,
    load_labels_manifest,
    render_labels_manifest,
)
from data_tools.labels.label_table_writer import LabelTableWriter
from data_tools.manifest import TokenizerInfo, token_dtype
from data_tools.progress import show_progress
from data_tools.reading.documents import Skipped
from data_tools.reading.record_files import read_records
from data_tools.reading.records import RecordOptions
from data_tools.sharding.shard_task import choose_split
from data_tools.tokenizer import Tokenizer, check_exportable, load_tokenizer
from data_tools.tokenizer.chat_template import ChatTemplate, load_chat_template

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class LabelResult:
    """The tables of a job, made now or in an earlier run."""

    folder: Path
    manifests: dict[Split, LabelsManifest]
    seconds: float
    already_done: bool


@dataclass(frozen=True, slots=True)
class _Job:
    out: Path
    inputs: Sequence[HashedFile]
    tokenizer: Tokenizer
    template: ChatTemplate | None
    options: LabelOptions

    @property
    def splits(self) -> tuple[Split, ...]:
        return ("train", "validation") if self.options.validation_percent else ("train",)

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that determines the bytes of the tables."""
        return {
            **self.options.identity(),
            "inputs": hash_inputs(self.inputs),
            "tokenizer": self.tokenizer.sha256,
            "chat_template": self.template and self.template.sha256,
        }


def build_label_table(
    patterns: Sequence[str], *, tokenizer: Path, out: Path, options: LabelOptions
) -> LabelResult:
    """Makes the label tables `out/train` and perhaps `out/validation`, unless they exist already.

    Args:
        patterns: CSV, TSV, JSON Lines, Parquet and Arrow files, as `find_record_files` takes them.
        tokenizer: The tokenizer file, or the folder of a Hugging Face tokenizer.
        out: The folder of the tables.
        options: What becomes a row, and what happens to rows that cannot be used.

    Raises:
        InputError: An option, a file or a row cannot be used, `out` has something else, or another
            process is writing there. Nothing is left behind.
    """
    started = time.monotonic()
    check_label_options(options)
    loaded = load_tokenizer(_tokenizer_file(tokenizer))
    check_exportable(loaded)
    template = _load_template(loaded) if "messages" in options.columns else None
    job = _Job(out, find_inputs(patterns), loaded, template, options)
    manifests = _finished(job)
    already_done = manifests is not None
    if manifests is None:
        with _new_folder(out) as part:
            manifests = _make(job, part)
    return LabelResult(out, manifests, time.monotonic() - started, already_done)


def _tokenizer_file(path: Path) -> Path:
    inside = [path / name for name in _TOKENIZER_FILES if (path / name).is_file()]
    return inside[0] if inside else path


def _load_template(tokenizer: Tokenizer) -> ChatTemplate:
    if tokenizer.kind != "huggingface":
        raise InputError(
            f"{tokenizer.path} is a SentencePiece model, which has no chat template: give the "
            "folder of a Hugging Face tokenizer, or --prompt and --answer"
        )
    return load_chat_template(tokenizer.path)


def _finished(job: _Job) -> dict[Split, LabelsManifest] | None:
    """The manifests of this job, if its tables exist.

    Raises:
        InputError: The folder has something else, or its tables are damaged.
    """
    if not job.out.exists() or (job.out.is_dir() and not any(job.out.iterdir())):
        return None
    if not (job.out / "train" / MANIFEST_NAME).is_file():
        raise InputError(f"{job.out} exists already and is not a label table: choose another --out")
    found: dict[Split, LabelsManifest] = {}
    for split in job.splits:
        path = job.out / split / MANIFEST_NAME
        if not path.is_file():
            found = {}
            break
        found[split] = load_labels_manifest(path)
    theirs = load_labels_manifest(job.out / "train" / MANIFEST_NAME).parameters
    if changes := describe_changes(theirs, job.parameters):
        raise InputError(
            f"{job.out} was made with other {changes}: nothing was changed; choose another --out, "
            "or delete that folder"
        )
    complete = found and all(
        has_size(job.out / split / name, info.bytes)
        for split, manifest in found.items()
        for name, info in manifest.files.items()
    )
    if not complete:
        raise InputError(f"{job.out} is damaged: delete it and run the same command again")
    return found


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends, or is removed on failure."""
    part = out.with_name(f".{out.name}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(part):
        try:
            _clear(part)
            yield part
            sync_path(part)
            part.rename(out)
            (out / LOCK_NAME).unlink()
            sync_path(out.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _clear(part: Path) -> None:
    """Removes what a killed process left."""
    for path in part.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_NAME:
            path.unlink()


def _make(job: _Job, part: Path) -> dict[Split, LabelsManifest]:
    token_type = np.dtype(token_dtype(job.tokenizer.vocab_size)).newbyteorder("<")
    with ExitStack() as stack:
        writers: dict[Split, LabelTableWriter] = {}
        for split in job.splits:
            writers[split] = LabelTableWriter(part / split, job.options.kind, token_type=token_type)
            stack.callback(writers[split].close)
        inputs, counts = _read(job, writers)
        check_lengths(counts, job.options)
        check_splits(writers, counts, job.options)
        labels = order_labels(writers, job.options)
        for line in counts.lines():
            logger.warning("%s", line)
        manifests = {}
        for split, writer in writers.items():
            files = writer.finish(labels) | _write_tokenizer(job, part / split)
            manifest = _manifest(job, split, writer, labels, inputs, counts, files)
            write_file(part / split / MANIFEST_NAME, render_labels_manifest(manifest))
            manifests[split] = manifest
    return manifests


def _read(
    job: _Job, writers: dict[Split, LabelTableWriter]
) -> tuple[tuple[LabelInput, ...], RowCounts]:
    options, maker, counts = job.options, _row_maker(job), RowCounts()
    inputs = []
    with show_progress("labelling", sum(it.found.file.bytes for it in job.inputs)) as advance:
        for number, hashed in enumerate(job.inputs):
            file, before, kept = hashed.found.file, counts.rows, 0
            for record in read_records(hashed.found, _reading(options)):
                if isinstance(record, Skipped):
                    counts.count(record, record.place)
                    continue
                made = maker.make(record)
                counts.count(made, record.place)
                if isinstance(made, LabelRow):
                    kept += 1
                    split = choose_split(
                        made.content, percent=options.validation_percent, seed=options.seed
                    )
                    writers[split].add(made, file=number, line=record.number)
            read = counts.rows - before
            inputs.append(
                LabelInput(
                    file=hashed.name,
                    bytes=file.bytes,
                    sha256=hashed.sha256,
                    rows=read,
                    left_out=read - kept,
                )
            )
            advance(file.bytes)
    return tuple(inputs), counts


def _reading(options: LabelOptions) -> RecordOptions:
    return RecordOptions(
        columns=options.options_of_columns, on_invalid=options.on_invalid, quotes=options.quotes
    )


def _row_maker(job: _Job) -> RowMaker:
    options, reading = job.options, _reading(job.options)
    limit = LengthLimit(options.max_length, options.truncate)
    if job.template is not None:
        return ChatRowMaker(
            options.columns["messages"], template=job.template, reading=reading, limit=limit
        )
    if options.kind == "answers":
        return AnswerRowMaker(
            options.columns, tokenizer=job.tokenizer, reading=reading, limit=limit
        )
    return LabelledRowMaker(
        options.columns,
        tokenizer=job.tokenizer,
        reading=reading,
        limit=limit,
        labels=options.labels,
    )


def _write_tokenizer(job: _Job, folder: Path) -> dict[str, FileInfo]:
    contents = {job.tokenizer.file_name: job.tokenizer.content}
    if job.template is not None:
        contents[CHAT_TEMPLATE_NAME] = job.template.text.encode("utf-8")
    for name, content in contents.items():
        write_file(folder / name, content)
    return {
        name: FileInfo(bytes=len(content), sha256=file_sha256(folder / name))
        for name, content in contents.items()
    }


def _manifest(
    job: _Job,
    split: Split,
    writer: LabelTableWriter,
    labels: tuple[str, ...],
    inputs: tuple[LabelInput, ...],
    counts: RowCounts,
    files: dict[str, FileInfo],
) -> LabelsManifest:
    return LabelsManifest(
        kind=job.options.kind,
        split=split,
        tokenizer=TokenizerInfo(
            sha256=job.tokenizer.sha256,
            vocab_size=job.tokenizer.vocab_size,
            special=job.tokenizer.special,
            file=job.tokenizer.file_name,
        ),
        dtype=token_dtype(job.tokenizer.vocab_size),
        parameters=job.parameters,
        num_rows=writer.num_rows,
        num_tokens=writer.num_tokens,
        num_answer_tokens=writer.num_answer_tokens,
        longest=writer.longest,
        has_pairs="pair" in job.options.columns,
        labels=tuple(LabelCount(name=name, rows=writer.counts[name]) for name in labels),
        inputs=inputs,
        left_out=counts.by_reason,
        truncated=writer.truncated,
        files=files,
        tool_version=tool_version(),
    )
