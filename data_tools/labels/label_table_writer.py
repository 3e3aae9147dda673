"""Writes the arrays of one label table in parts, so that memory does not grow with its tokens."""

from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.array_files import ArrayWriter, FileInfo
from data_tools.labels.label_rows import LabelRow
from data_tools.labels.label_table import (
    ANSWERS,
    ARRAY_TYPES,
    FILES,
    IS_ANSWER,
    LABELS,
    LINES,
    ROWS,
    SECONDS,
    TOKENS,
    RowKind,
)

_BLOCK_TOKENS = 1 << 20


class LabelTableWriter:
    """The arrays of one split; about 30 bytes of memory for each row."""

    def __init__(self, folder: Path, kind: RowKind, *, token_type: np.dtype[Any]) -> None:
        """Makes the folder and opens the arrays of tokens.

        Args:
            folder: The folder of the table.
            kind: What a row is.
            token_type: The type of a token.
        """
        folder.mkdir()
        self.counts: Counter[str] = Counter()
        self.num_answer_tokens = self.longest = self.truncated = 0
        self._folder, self._kind = folder, kind
        self._tokens = ArrayWriter(folder / TOKENS, token_type)
        self._is_answer = (
            ArrayWriter(folder / IS_ANSWER, ARRAY_TYPES[IS_ANSWER]) if kind == "answers" else None
        )
        self._waiting: list[LabelRow] = []
        self._waiting_tokens = 0
        self._ends = array("q", [0])
        self._seconds, self._labels, self._answers = array("i"), array("i"), array("i")
        self._files, self._lines = array("i"), array("q")
        self._numbers: dict[str, int] = {}

    @property
    def num_rows(self) -> int:
        """Rows that were added."""
        return len(self._lines)

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return self._ends[-1]

    def add(self, row: LabelRow, *, file: int, line: int) -> None:
        """Adds a row.

        Args:
            row: The row.
            file: The number of its input file.
            line: Its place in the file.
        """
        self._ends.append(self._ends[-1] + len(row.tokens))
        self._files.append(file)
        self._lines.append(line)
        self.longest = max(self.longest, row.length)
        self.truncated += row.untruncated > 0
        if row.is_answer is None:
            self.counts[row.label] += 1
            self._seconds.append(row.second)
            self._labels.append(self._numbers.setdefault(row.label, len(self._numbers)))
        else:
            self._answers.append(int(row.is_answer.sum()))
            self.num_answer_tokens += self._answers[-1]
        self._waiting.append(row)
        self._waiting_tokens += len(row.tokens)
        if self._waiting_tokens >= _BLOCK_TOKENS:
            self._flush()

    def finish(self, labels: tuple[str, ...]) -> dict[str, FileInfo]:
        """Gives every array its final name.

        Args:
            labels: The classes in the order of their numbers; empty for answers.
        """
        self._flush()
        files = {TOKENS: self._tokens.finish()}
        if self._is_answer is not None:
            files[IS_ANSWER] = self._is_answer.finish()
        arrays = {ROWS: self._ends, FILES: self._files, LINES: self._lines}
        if self._kind == "classes":
            final = {name: number for number, name in enumerate(labels)}
            renumbered = np.array([final[name] for name in self._numbers], dtype=np.int32)
            found = renumbered[np.frombuffer(self._labels, dtype=np.int32)]
            arrays |= {SECONDS: self._seconds, LABELS: array("i", found.tolist())}
        else:
            arrays[ANSWERS] = self._answers
        for name, values in arrays.items():
            writer = ArrayWriter(self._folder / name, ARRAY_TYPES[name])
            writer.append(np.array(values, dtype=ARRAY_TYPES[name]))
            files[name] = writer.finish()
        return files

    def close(self) -> None:
        """Closes the files, finished or not."""
        self._tokens.close()
        if self._is_answer is not None:
            self._is_answer.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        self._tokens.append(np.concatenate([row.tokens for row in self._waiting]))
        if self._is_answer is not None:
            marks = [row.is_answer for row in self._waiting if row.is_answer is not None]
            self._is_answer.append(np.concatenate(marks))
        self._waiting, self._waiting_tokens = [], 0
