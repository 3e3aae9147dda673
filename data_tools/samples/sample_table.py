"""Reads sample tables: for packed rows, padded rows and pairs, the tokens that make each sample.

A table is the folder `CORPUS/samples/NAME/`. `rows.npy` has the first segment of each sample,
`starts.npy` and `lengths.npy` the position of each segment in the token stream.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_tools.array_files import ArrayFile, FileInfo
from data_tools.errors import InputError
from data_tools.files import file_sha256, load_json, render_json

SCHEMA: Final = "bigtrain-samples/1"
MANIFEST_NAME = "manifest.json"
SAMPLES_FOLDER = "samples"

SampleMode = Literal["bestfit", "pad", "pairs"]

ROWS, STARTS, LENGTHS, IS_RANDOM = "rows.npy", "starts.npy", "lengths.npy", "is_random.npy"
ARRAY_TYPES: Final[dict[str, np.dtype[Any]]] = {
    ROWS: np.dtype("<i8"),
    STARTS: np.dtype("<i8"),
    LENGTHS: np.dtype("<i4"),
    IS_RANDOM: np.dtype("u1"),
}


class _Part(BaseModel):
    # A later version may add keys to the same schema; this version must still read the file.
    model_config = ConfigDict(frozen=True, extra="ignore")


class SamplesManifest(_Part):
    """Everything in the `manifest.json` of a sample table."""

    samples_schema: Literal["bigtrain-samples/1"] = SCHEMA
    mode: SampleMode
    sequence_length: int
    corpus_fingerprint: str
    seed: int
    parameters: dict[str, int | float]
    """The other options that decided the samples."""
    num_samples: int = Field(gt=0)
    num_segments: int = Field(gt=0)
    buckets: tuple[tuple[int, int], ...]
    """Padded length and number of samples, in the order of the samples; only for pairs."""
    statistics: dict[str, int | float]
    """Statistics of the samples, such as the fraction of a row that tokens fill."""
    files: dict[str, FileInfo]
    tool_version: str


@dataclass(frozen=True, slots=True)
class Segments:
    """Some samples: sample `i` is the segments `offsets[i]` to `offsets[i + 1]`."""

    offsets: NDArray[np.int64]
    """`[samples + 1]`."""
    starts: NDArray[np.int64]
    """`[segments]`: the position of the first token in the token stream."""
    lengths: NDArray[np.int64]
    """`[segments]`: the number of input tokens; in bestfit and pad, targets are the next tokens."""
    is_random: NDArray[np.bool_] | None = None
    """`[samples]`: whether B is from another document than A; only for pairs."""


def table_folder(corpus_folder: Path, *, mode: SampleMode, sequence_length: int) -> Path:
    """Names the folder of a table: `CORPUS/samples/bestfit-2048`."""
    return corpus_folder / SAMPLES_FOLDER / table_name(mode, sequence_length)


def table_name(mode: SampleMode, sequence_length: int) -> str:
    """Names a table within its corpus: `bestfit-2048`."""
    return f"{mode}-{sequence_length}"


class SampleTable:
    """A sample table, open for reading; safe to use from several threads, and after a fork."""

    def __init__(self, folder: Path, manifest: SamplesManifest, *, fingerprint: str) -> None:
        """Opens the arrays that the manifest lists.

        Raises:
            InputError: An array is missing, or has a wrong size, type or length.
        """
        self.folder = folder
        self.manifest = manifest
        self.fingerprint = fingerprint
        samples, segments = manifest.num_samples, manifest.num_segments
        self._rows = self._open(ROWS, samples + 1)
        self._starts = self._open(STARTS, segments)
        self._lengths = self._open(LENGTHS, segments)
        self._is_random = self._open(IS_RANDOM, samples) if manifest.mode == "pairs" else None

    @property
    def mode(self) -> SampleMode:
        """How samples are made from documents."""
        return self.manifest.mode

    @property
    def sequence_length(self) -> int:
        """The maximum number of tokens of a sample, including special tokens."""
        return self.manifest.sequence_length

    @property
    def num_samples(self) -> int:
        """Samples in the table."""
        return self.manifest.num_samples

    @property
    def buckets(self) -> tuple[tuple[int, int], ...]:
        """Pairs of padded length and number of samples; the samples are in this order."""
        return self.manifest.buckets

    def read(self, samples: NDArray[np.int64]) -> Segments:
        """Reads where the tokens of some samples are.

        Args:
            samples: Numbers from 0 to below `num_samples`, in any order.

        Raises:
            InputError: A file of the table is damaged.
        """
        samples = np.asarray(samples, dtype=np.int64)
        assert samples.size == 0 or 0 <= samples.min() <= samples.max() < self.num_samples
        bounds = self._rows.read(samples, np.full_like(samples, 2)).reshape(-1, 2)
        counts = bounds[:, 1] - bounds[:, 0]
        self._check(bool((counts > 0).all() and (bounds >= 0).all()), ROWS)
        self._check(bool((bounds <= self.manifest.num_segments).all()), ROWS)
        lengths = self._lengths.read(bounds[:, 0], counts).astype(np.int64)
        self._check(bool(((lengths > 0) & (lengths <= self.sequence_length)).all()), LENGTHS)
        is_random = None
        if self._is_random is not None:
            is_random = self._is_random.read(samples, np.ones_like(samples)).astype(np.bool_)
        return Segments(
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            starts=self._starts.read(bounds[:, 0], counts),
            lengths=lengths,
            is_random=is_random,
        )

    def check_content(self) -> None:
        """Reads every file and compares its sha256 with the manifest's.

        Raises:
            InputError: A hash differs.
        """
        for name, info in self.manifest.files.items():
            self._check(file_sha256(self.folder / name) == info.sha256, name)

    def close(self) -> None:
        """Closes every file."""
        for array in (self._rows, self._starts, self._lengths, self._is_random):
            if array is not None:
                array.close()

    def __enter__(self) -> "SampleTable":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self, name: str, length: int) -> ArrayFile:
        info = self.manifest.files.get(name)
        if info is None:
            raise InputError(f"{self.folder / MANIFEST_NAME} lists no {name}: {_remake(self)}")
        return ArrayFile(
            self.folder / name,
            info,
            dtype=ARRAY_TYPES[name],
            length=length,
            remedy=_remake(self),
        )

    def _check(self, is_good: bool, name: str) -> None:
        if not is_good:
            raise InputError(f"{self.folder / name} is damaged: {_remake(self)}")


def load_sample_table(
    corpus_folder: Path, *, mode: SampleMode, sequence_length: int, corpus_fingerprint: str
) -> SampleTable:
    """Opens the table of a corpus for one mode and one length.

    Args:
        corpus_folder: The corpus folder that the table was made from.
        mode: How samples are made.
        sequence_length: Tokens of a sample.
        corpus_fingerprint: The current fingerprint of the corpus.

    Raises:
        InputError: The table is missing, was made for another corpus, or is damaged.
    """
    folder = table_folder(corpus_folder, mode=mode, sequence_length=sequence_length)
    again = make_command(corpus_folder, mode=mode, sequence_length=sequence_length)
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise InputError(
            f"{corpus_folder} has no table of {mode} samples of {sequence_length} tokens: "
            f"make it with {again}"
        )
    manifest = load_samples_manifest(path)
    if (manifest.mode, manifest.sequence_length) != (mode, sequence_length):
        raise InputError(
            f"{path} describes {manifest.mode} samples of {manifest.sequence_length} tokens, "
            f"but its folder has another name: delete {folder} and run {again}"
        )
    if manifest.corpus_fingerprint != corpus_fingerprint:
        raise InputError(
            f"{folder} was made for another corpus (fingerprint "
            f"{manifest.corpus_fingerprint[:12]}, not {corpus_fingerprint[:12]}): "
            f"delete it and run {again}"
        )
    return SampleTable(folder, manifest, fingerprint=file_sha256(path))


def load_samples_manifest(path: Path) -> SamplesManifest:
    """Reads and checks the manifest of a table.

    Raises:
        InputError: The manifest cannot be read, or this version does not support its schema.
    """
    values = load_json(path)
    schema = values.pop("schema", None) if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"{path} has schema {schema!r}, and this version reads {SCHEMA!r}: "
            f"use the version of bigtrain that wrote it, or delete {path.parent} and make it again"
        )
    try:
        return SamplesManifest.model_validate({"samples_schema": schema, **values})
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise InputError(
            f"{path}: {where}: {fault['msg']}; delete {path.parent} and make it again"
        ) from error


def render_samples_manifest(manifest: SamplesManifest) -> bytes:
    """Renders the bytes of `manifest.json`; their sha256 is the table's fingerprint."""
    values = manifest.model_dump(mode="json")
    return render_json({"schema": values.pop("samples_schema"), **values})


def manifest_fingerprint(manifest: SamplesManifest) -> str:
    """The sha256 of the manifest file."""
    return hashlib.sha256(render_samples_manifest(manifest)).hexdigest()


def make_command(corpus_folder: Path, *, mode: SampleMode, sequence_length: int) -> str:
    """The command that makes a table."""
    return (
        f"`bigtrain data samples {corpus_folder} --mode {mode} --sequence-length {sequence_length}`"
    )


def _remake(table: SampleTable) -> str:
    corpus_folder = table.folder.parent.parent
    again = make_command(corpus_folder, mode=table.mode, sequence_length=table.sequence_length)
    return f"delete {table.folder} and run {again}"
