"""Writes files of labelled rows in every format, and makes tables of them."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import zstandard

from data_tools.labels.build_label_table import build_label_table
from data_tools.labels.label_options import LabelOptions
from data_tools.labels.label_table import LabelTable, open_label_table

Rows = list[dict[str, Any]]

TEXT = {"text": "text", "label": "label"}
PAIR = {"text": "one", "pair": "two", "label": "label"}


def write_rows(path: Path, rows: Rows) -> Path:
    """Writes rows in the format that the name of the file says."""
    content = _render(path, rows)
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = zstandard.compress(content)
    path.write_bytes(content)
    return path


def make_table(files: list[Path] | Path, tokenizer: Any, out: Path, **options: Any) -> LabelTable:
    """Makes tables and opens the one to train on."""
    paths = [files] if isinstance(files, Path) else files
    path = tokenizer if isinstance(tokenizer, Path) else tokenizer.path
    options.setdefault("columns", TEXT)
    build_label_table(
        [str(it) for it in paths], tokenizer=path, out=out, options=LabelOptions(**options)
    )
    return open_label_table(out / "train")


def _render(path: Path, rows: Rows) -> bytes:
    kind = next(suffix for suffix in path.suffixes if suffix not in (".gz", ".zst"))
    if kind in (".csv", ".tsv"):
        text = io.StringIO(newline="")
        if kind == ".csv":
            writer: Any = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        else:
            for row in [dict(zip(rows[0], rows[0], strict=True)), *rows]:
                text.write("\t".join(map(str, row.values())) + "\n")
        return text.getvalue().encode()
    if kind == ".parquet":
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, row_group_size=7)
        return buffer.getvalue()
    if kind == ".arrow":
        buffer = io.BytesIO()
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
        return buffer.getvalue()
    if kind == ".json":
        return json.dumps(rows, indent=1).encode()
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
