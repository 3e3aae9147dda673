"""An opened label table as samples: single labelled rows, or rows of answers packed together."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bigtrain.config import ConfigError
from bigtrain.data.corpus_order import Indices
from bigtrain.data.split_facts import SplitFacts
from bigtrain.data.token_rows import Rows, token_positions
from data_tools.labels.label_table import LabelsManifest, LabelTable, open_label_table
from data_tools.samples.plan_rows import plan_bestfit

LabelPacking = Literal["labels", "answers"]

_KINDS: dict[str, tuple[LabelPacking, str]] = {
    "classes": ("labels", "labelled text"),
    "answers": ("answers", "prompts and answers"),
}


@dataclass(frozen=True, slots=True)
class _Packing:
    """Which rows of the table share a sample: those from `rows[i]` to `rows[i + 1]` of `order`."""

    order: Indices
    rows: Indices


class LabelSource:
    """One opened label table, as samples.

    Rows of answers are packed by `plan_bestfit` when the table is opened, which takes about 50
    bytes of memory a row; the packing depends only on the table and the length of a sample.
    """

    def __init__(
        self, name: str, table: LabelTable, *, packing: LabelPacking, sequence_length: int
    ) -> None:
        """Plans the samples.

        Args:
            name: The table, as the config names it.
            table: The opened table.
            packing: What a sample is.
            sequence_length: The most tokens of a sample.

        Raises:
            ConfigError: The table has rows of another kind, or longer rows.
        """
        self.name, self.labels, self.sequence_length = name, table, sequence_length
        _check_fits(name, table.manifest, packing, sequence_length)
        self._packing = _pack(table, sequence_length) if packing == "answers" else None

    @property
    def num_samples(self) -> int:
        """Samples in the table."""
        return self.labels.num_rows if self._packing is None else len(self._packing.rows) - 1

    @property
    def is_stream(self) -> bool:
        """Whether neighbouring samples are neighbours in a token stream: they are not."""
        return False

    @property
    def fingerprint(self) -> str:
        """Identifies the samples, together with the packing and the length of a sample."""
        return self.labels.fingerprint

    @property
    def tokenizer_sha256(self) -> str:
        """The hash of the tokenizer that made the table."""
        return self.labels.manifest.tokenizer.sha256

    @property
    def split_facts(self) -> SplitFacts:
        """How the table was split into training and validation."""
        manifest = self.labels.manifest
        return SplitFacts(
            self.fingerprint, manifest.split, manifest.seed, manifest.validation_percent
        )

    def local_tokenizer(self) -> Path:
        """The table's copy of its tokenizer."""
        return self.labels.tokenizer_file

    def check_files(self) -> None:
        """Does nothing: the sizes of all files were checked when they were opened."""

    def will_need(self, rows: Indices) -> None:
        """Does nothing: a table is small, and its rows are read with one `pread` each."""

    def rows_of(self, sample: int) -> Indices:
        """The rows of the table that a sample holds."""
        if self._packing is None:
            return np.array([sample])
        first, last = self._packing.rows[sample : sample + 2]
        return self._packing.order[first:last]

    def count_targets(self, samples: Indices) -> int:
        """The number of targets in samples of answers."""
        rows = [self.rows_of(sample) for sample in samples.tolist()]
        return int(self.labels.count_answer_tokens(np.concatenate(rows)).sum()) if rows else 0

    def read_answers(self, samples: Indices, *, pad: int) -> Rows:
        """Reads samples of packed rows: each row is a document, and only its answers have weight.

        Args:
            samples: The numbers of the samples.
            pad: The token to pad with.

        Raises:
            InputError: The table is damaged.
        """
        shape = len(samples), self.sequence_length
        tokens = np.full(shape, pad, dtype=np.int64)
        targets, weights = tokens.copy(), np.zeros(shape, dtype=np.float32)
        begins = np.zeros(shape, dtype=bool)
        for place, sample in enumerate(samples.tolist()):
            read = self.labels.read(self.rows_of(sample))
            assert read.is_answer is not None
            filled = 0
            for first, last in zip(read.offsets[:-1], read.offsets[1:], strict=True):
                size = int(last - first) - 1
                here = slice(filled, filled + size)
                tokens[place, here] = read.tokens[first : last - 1]
                targets[place, here] = read.tokens[first + 1 : last]
                weights[place, here] = read.is_answer[first + 1 : last]
                begins[place, filled] = True
                filled += size
            if filled < self.sequence_length:
                begins[place, filled] = True  # Padding is a document of its own.
        begins[:, 0] = False
        return Rows(
            tokens,
            targets,
            weights=weights,
            positions=token_positions(begins),
            documents=np.cumsum(begins, axis=1, dtype=np.int64),
        )

    def close(self) -> None:
        """Closes the files."""
        self.labels.close()

    def __enter__(self) -> "LabelSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_label_source(name: str, *, packing: LabelPacking, sequence_length: int) -> LabelSource:
    """Opens a label table as samples.

    Raises:
        ConfigError: It is at a URL, or does not fit the packing or the length.
        InputError: It cannot be read.
    """
    if "://" in name:
        raise ConfigError(
            f"{name}: label tables are read from a disk; copy the table and give its folder"
        )
    table = open_label_table(Path(name))
    try:
        return LabelSource(name, table, packing=packing, sequence_length=sequence_length)
    except BaseException:
        table.close()
        raise


def check_label_names(sources: Sequence[LabelSource]) -> None:
    """Checks that all tables have the same classes in the same order.

    Raises:
        ConfigError: Two tables differ.
    """
    for other in sources[1:]:
        first = sources[0]
        ours, theirs = (it.labels.manifest.label_names for it in (first, other))
        if ours != theirs:
            raise ConfigError(
                f"{first.name} has the classes {', '.join(ours)}, but {other.name} has "
                f"{', '.join(theirs)}: make both with `bigtrain data label --labels "
                f"{','.join(ours)}`"
            )


def check_objective_labels(labels: Sequence[str], source: LabelSource) -> None:
    """Checks that the run's classes are those of a table, in the same order.

    Raises:
        ConfigError: They are not.
    """
    theirs = source.labels.manifest.label_names
    if tuple(labels) != theirs:
        raise ConfigError(
            f"objective.labels={','.join(labels)}: {source.name} has {','.join(theirs)}; set "
            f"objective.labels={json.dumps(theirs, ensure_ascii=False)}"
        )


def _check_fits(
    name: str, manifest: LabelsManifest, packing: LabelPacking, sequence_length: int
) -> None:
    fitting, what = _KINDS[manifest.kind]
    if packing != fitting:
        raise ConfigError(
            f"data.packing={packing} does not read {name}, a table of {what}; set "
            f"data.packing={fitting}"
        )
    # The last token of a row of answers is only a target.
    longest = manifest.longest - (packing == "answers")
    if longest > sequence_length:
        raise ConfigError(
            f"data.sequence_length={sequence_length}: the longest row of {name} needs {longest} "
            f"tokens; raise it, or make the table again with --max-length "
            f"{sequence_length + (packing == 'answers')}"
        )


def _pack(table: LabelTable, sequence_length: int) -> _Packing:
    bounds = table.bounds(np.arange(table.num_rows))
    lengths = (bounds[:, 1] - bounds[:, 0] - 1).astype(np.int32)
    packing = plan_bestfit(lengths, capacity=sequence_length)
    return _Packing(packing.order, packing.rows)
