"""The format of label tables, `bigtrain-labels/1`, and reading one at any row.

A table is a folder of `.npy` arrays, a copy of the tokenizer, and `manifest.json`, written last.
Little-endian arrays, as in sample tables, and not Parquet or Arrow: a rank reads the few rows of
its own microbatch at any position with one `pread` each, training needs no pyarrow, and the bytes
do not depend on the version of a library. Texts are tokens without special tokens, so that one
table serves a BERT, whose reader adds `[CLS]` and `[SEP]`, and a GPT.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_tools.array_files import ArrayFile, FileInfo
from data_tools.errors import InputError
from data_tools.files import file_sha256, load_json, render_json
from data_tools.manifest import TokenizerInfo

SCHEMA: Final = "bigtrain-labels/1"
MANIFEST_NAME = "manifest.json"
CHAT_TEMPLATE_NAME = "chat_template.jinja"

RowKind = Literal["classes", "answers"]
Split = Literal["train", "validation"]

TOKENS, ROWS, SECONDS, LABELS = "tokens.npy", "rows.npy", "seconds.npy", "labels.npy"
IS_ANSWER, ANSWERS = "is_answer.npy", "answers.npy"
FILES, LINES = "files.npy", "lines.npy"
ARRAY_TYPES: Final[dict[str, np.dtype[Any]]] = {
    ROWS: np.dtype("<i8"),
    SECONDS: np.dtype("<i4"),
    LABELS: np.dtype("<i4"),
    IS_ANSWER: np.dtype("u1"),
    ANSWERS: np.dtype("<i4"),
    FILES: np.dtype("<i4"),
    LINES: np.dtype("<i8"),
}
"""The type of each array; that of `tokens.npy` is in the manifest."""
ARRAYS_OF_KIND: Final[dict[RowKind, tuple[str, ...]]] = {
    "classes": (TOKENS, ROWS, SECONDS, LABELS, FILES, LINES),
    "answers": (TOKENS, ROWS, IS_ANSWER, ANSWERS, FILES, LINES),
}


class _Part(BaseModel):
    # A later version may add keys to the same schema; this version must still read the file.
    model_config = ConfigDict(frozen=True, extra="ignore")


class LabelCount(_Part):
    """One class, and how many rows of the table have it."""

    name: str
    rows: int


class LabelInput(_Part):
    """One input file, before the split: rows that were read and rows that were left out."""

    file: str
    bytes: int
    sha256: str
    """Of a file at a URL, the hash of its size and stamp."""
    rows: int
    left_out: int


class LabelsManifest(_Part):
    """Everything in the `manifest.json` of a label table."""

    labels_schema: Literal["bigtrain-labels/1"] = SCHEMA
    kind: RowKind
    split: Split
    tokenizer: TokenizerInfo
    dtype: Literal["uint16", "uint32"]
    parameters: dict[str, Any]
    """All options and the hash of the inputs: the same job has the same parameters."""
    num_rows: int = Field(gt=0)
    num_tokens: int = Field(gt=0)
    num_answer_tokens: int = 0
    """Tokens that count in the loss; only of answers."""
    longest: int = Field(gt=0)
    """Tokens of the longest row, with the special tokens that BERT adds to labelled text."""
    has_pairs: bool = False
    """Whether each row has two texts."""
    labels: tuple[LabelCount, ...] = ()
    """The classes: `labels.npy` has an index into this list."""
    inputs: tuple[LabelInput, ...]
    left_out: dict[str, int]
    """Rows of all inputs that were left out, by reason."""
    truncated: int
    """Rows of this table that were cut to the maximum length."""
    files: dict[str, FileInfo]
    tool_version: str

    @property
    def token_type(self) -> np.dtype[Any]:
        """The type of a token on disk, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def seed(self) -> int:
        """The seed by which the validation split was chosen."""
        return int(self.parameters["seed"])

    @property
    def validation_percent(self) -> float:
        """The percentage of rows in the validation split; 0 if there is none."""
        return float(self.parameters["validation_percent"])

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their numbers."""
        return tuple(label.name for label in self.labels)


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Some rows: row `i` is the tokens `offsets[i]` to `offsets[i + 1]`."""

    offsets: NDArray[np.int64]
    """`[rows + 1]`."""
    tokens: NDArray[np.int64]
    """`[tokens]`, without special tokens for classes; for answers with those of the template, or
    with the end of the answer."""
    seconds: NDArray[np.int64] | None = None
    """`[rows]`: how many tokens of the row are of its first text; only for classes."""
    labels: NDArray[np.int64] | None = None
    """`[rows]`: the number of each row's class; only for classes."""
    is_answer: NDArray[np.bool_] | None = None
    """`[tokens]`: whether a token is part of an answer, never the first one of a row; only for
    answers."""


class LabelTable:
    """A label table, open for reading; safe to use from several threads, and after a fork."""

    def __init__(self, folder: Path, manifest: LabelsManifest, *, fingerprint: str) -> None:
        """Opens the arrays that the manifest lists.

        Raises:
            InputError: An array is missing, or has a wrong size, type or length.
        """
        self.folder, self.manifest, self.fingerprint = folder, manifest, fingerprint
        rows, tokens = manifest.num_rows, manifest.num_tokens
        lengths = {TOKENS: tokens, IS_ANSWER: tokens, ROWS: rows + 1}
        self._arrays = {
            name: self._open(name, lengths.get(name, rows))
            for name in ARRAYS_OF_KIND[manifest.kind]
        }

    @property
    def num_rows(self) -> int:
        """Rows in the table."""
        return self.manifest.num_rows

    @property
    def tokenizer_file(self) -> Path:
        """The table's copy of its tokenizer."""
        return self.folder / self.manifest.tokenizer.file

    def bounds(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows begin and end among the tokens of the table, `[rows, 2]`.

        Raises:
            InputError: A file of the table is damaged.
        """
        rows = np.asarray(rows, dtype=np.int64)
        assert rows.size == 0 or 0 <= rows.min() <= rows.max() < self.num_rows
        bounds = self._arrays[ROWS].read(rows, np.full_like(rows, 2)).reshape(-1, 2)
        good = (bounds[:, 0] >= 0) & (bounds[:, 0] < bounds[:, 1])
        self._check(bool((good & (bounds[:, 1] <= self.manifest.num_tokens)).all()), ROWS)
        return bounds

    def read(self, rows: NDArray[np.int64]) -> LabelledRows:
        """Reads some rows.

        Args:
            rows: Numbers from 0 to below `num_rows`, in any order.

        Raises:
            InputError: A file of the table is damaged.
        """
        bounds = self.bounds(rows)
        firsts, counts = bounds[:, 0], bounds[:, 1] - bounds[:, 0]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        tokens = self._arrays[TOKENS].read(firsts, counts).astype(np.int64)
        self._check(bool((tokens < self.manifest.tokenizer.vocab_size).all()), TOKENS)
        if self.manifest.kind == "answers":
            is_answer = self._arrays[IS_ANSWER].read(firsts, counts).astype(np.bool_)
            return LabelledRows(offsets, tokens, is_answer=is_answer)
        seconds, labels = self._each(SECONDS, rows), self._each(LABELS, rows)
        self._check(bool(((seconds > 0) & (seconds <= counts)).all()), SECONDS)
        known = (labels >= 0) & (labels < len(self.manifest.labels))
        self._check(bool(known.all()), LABELS)
        return LabelledRows(offsets, tokens, seconds=seconds, labels=labels)

    def count_answer_tokens(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many tokens of each row count in the loss, `[rows]`; only for answers.

        Raises:
            InputError: A file of the table is damaged.
        """
        return self._each(ANSWERS, rows)

    def places(self, rows: NDArray[np.int64]) -> list[tuple[str, int]]:
        """The input file of each row, and its line there (for Parquet and Arrow, its row)."""
        files, lines = self._each(FILES, rows), self._each(LINES, rows)
        self._check(bool(((files >= 0) & (files < len(self.manifest.inputs))).all()), FILES)
        names = [self.manifest.inputs[number].file for number in files.tolist()]
        return list(zip(names, lines.tolist(), strict=True))

    def check_content(self) -> None:
        """Reads every file and compares its sha256 with the manifest's.

        Raises:
            InputError: A hash differs, or a file is missing.
        """
        for name, info in self.manifest.files.items():
            path = self.folder / name
            self._check(path.is_file() and file_sha256(path) == info.sha256, name)

    def close(self) -> None:
        """Closes every file."""
        for array in self._arrays.values():
            array.close()

    def __enter__(self) -> "LabelTable":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _each(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = np.asarray(rows, dtype=np.int64)
        return self._arrays[name].read(rows, np.ones_like(rows)).astype(np.int64)

    def _open(self, name: str, length: int) -> ArrayFile:
        info = self.manifest.files.get(name)
        if info is None:
            raise InputError(f"{self.folder / MANIFEST_NAME} lists no {name}: {self._remedy}")
        dtype = self.manifest.token_type if name == TOKENS else ARRAY_TYPES[name]
        path = self.folder / name
        return ArrayFile(path, info, dtype=dtype, length=length, remedy=self._remedy)

    @property
    def _remedy(self) -> str:
        return f"delete {self.folder.parent} and make it again with `bigtrain data label`"

    def _check(self, is_good: bool, name: str) -> None:
        if not is_good:
            raise InputError(f"{self.folder / name} is damaged: {self._remedy}")


def open_label_table(folder: Path) -> LabelTable:
    """Opens a label table.

    Raises:
        InputError: There is none, it is damaged, or this version does not support its schema.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        inside = sorted(it.parent.name for it in folder.glob(f"*/{MANIFEST_NAME}"))
        if inside:
            raise InputError(
                f"{folder} is not a table but contains some: give {folder}/{inside[0]}"
            )
        raise InputError(f"no label table at {folder}: make one with `bigtrain data label`")
    return LabelTable(folder, load_labels_manifest(path), fingerprint=file_sha256(path))


def load_labels_manifest(path: Path) -> LabelsManifest:
    """Reads and checks the manifest of a label table.

    Raises:
        InputError: The manifest cannot be read, or this version does not support its schema.
    """
    values = load_json(path)
    schema = values.pop("schema", None) if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"{path} has schema {schema!r}, and a label table has {SCHEMA!r}: give a folder that "
            "`bigtrain data label` wrote, or use the version of bigtrain that wrote this one"
        )
    try:
        return LabelsManifest.model_validate({"labels_schema": schema, **values})
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise InputError(
            f"{path}: {where}: {fault['msg']}; make the table again with `bigtrain data label`"
        ) from error


def render_labels_manifest(manifest: LabelsManifest) -> bytes:
    """Renders the bytes of `manifest.json`; their sha256 is the table's fingerprint."""
    values = manifest.model_dump(mode="json")
    return render_json({"schema": values.pop("labels_schema"), **values})


def labels_fingerprint(manifest: LabelsManifest) -> str:
    """The sha256 of the manifest file."""
    return hashlib.sha256(render_labels_manifest(manifest)).hexdigest()
