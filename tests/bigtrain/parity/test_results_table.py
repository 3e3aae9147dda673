"""The results as a table, and the notes below it."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.layout import parse_layout
from bigtrain.parity.compare import FP32_TOLERANCES, Comparison, Reference
from bigtrain.parity.layout_runs import (
    LayoutFailure,
    LayoutResult,
    ParityError,
    compare_layouts,
    measure_one_process,
)
from bigtrain.parity.record import Record, RecordWriter
from bigtrain.parity.result_table import render_notes, render_plain, render_rich
from bigtrain.parity.rounding import measure_rounding
from tests.bigtrain.parity.test_parity_layouts import VALUES

SAME = Comparison(1e-8, 2e-7, 3e-7, 0.0, worst_gradient="norm", differing=())
OFF = Comparison(
    1e-8,
    2e-3,
    0.25,
    3e-6,
    worst_gradient="layers.2",
    differing=("embedding", "layers.1", "layers.2"),
)
LATE = Comparison(1e-8, 1e-8, 1e-8, 0.25, worst_gradient="norm", differing=("embedding",))

ROWS = [
    LayoutResult(parse_layout("tensor=2"), SAME),
    LayoutResult(parse_layout("pipeline=2"), OFF, failures=("grad_norm", "gradients")),
    LayoutResult(parse_layout("data=2"), LATE, failures=("parameters",)),
    LayoutResult(parse_layout("tensor=3"), refusal="parallel.tensor=3 does not divide"),
    LayoutResult(parse_layout("data=2 zero=1"), error="KeyError: 'a bug'"),
]

PLAIN = """\
layout         ranks     loss  grad norm  gradients  parameters
tensor=2           2  1.0e-08    2.0e-07    3.0e-07           0  same
pipeline=2         2  1.0e-08   2.0e-03!   2.5e-01!     3.0e-06  DIFFERS
data=2             2  1.0e-08    1.0e-08    1.0e-08    2.5e-01!  DIFFERS
tensor=3           3        –          –          –           –  refused
data=2 zero=1      2        –          –          –           –  FAILED"""


def test_the_plain_table_is_aligned_and_marks_failures() -> None:
    assert render_plain(ROWS) == PLAIN


def test_the_table_on_a_terminal_has_the_same_values_in_80_columns() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(render_rich(ROWS))
    lines = out.getvalue().splitlines()
    words = {word for line in lines for word in line.split()}
    assert {word for line in PLAIN.splitlines()[1:] for word in line.split()} <= words


def test_notes_name_the_first_tensor_and_where_to_look() -> None:
    off, late, refused, failed = render_notes(ROWS)
    assert off == (
        "pipeline=2: first tensor to differ: embedding (and 2 more, the last layers.2); look at "
        "what computes its first-step gradient: layers.2 differs most, by 2.5e-01 "
        "(grad_norm, gradients beyond tolerance)"
    )
    assert "first-step gradients agree, so look at clipping" in late
    assert refused == "tensor=3: refused: parallel.tensor=3 does not divide"
    assert failed == "data=2 zero=1: FAILED: KeyError: 'a bug'"


def test_a_refused_layout_is_not_a_failure() -> None:
    assert [row.is_acceptable for row in ROWS] == [True, False, False, True, False]


def test_refused_layouts_start_no_rank(tmp_path: Path) -> None:
    messages: list[str] = []

    def start(config: Path, processes: int, folder: Path, *, perturbed_runs: int = 0) -> None:
        raise AssertionError("a rank was started")

    RecordWriter(tmp_path, rank=0).finish([])
    one_process = Record(tmp_path)
    rows = compare_layouts(
        RunConfig.model_validate(VALUES),
        [parse_layout("tensor=3")],
        reference=Reference(one_process, measure_rounding(one_process, []), FP32_TOLERANCES),
        tolerances=FP32_TOLERANCES,
        folder=tmp_path,
        start=start,
        report_progress=messages.append,
    )
    assert [row.refusal is not None for row in rows] == [True]
    assert messages == ["layout 1 of 1: tensor=3"]


@pytest.mark.parametrize(("is_refusal", "kind"), [(False, ParityError), (True, ConfigError)])
def test_a_failed_reference_run_ends_the_comparison(
    is_refusal: bool, kind: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(kind, match="it broke"):
        measure_one_process(
            RunConfig.model_validate(VALUES),
            folder=tmp_path / "one_process",
            start=lambda *_, **__: LayoutFailure("it broke", is_refusal=is_refusal),
        )


def test_a_record_that_cannot_be_read_fails_its_layout_only(tmp_path: Path) -> None:
    RecordWriter(tmp_path, rank=0).finish([])
    one_process = Record(tmp_path)
    (row,) = compare_layouts(
        RunConfig.model_validate(VALUES),
        [parse_layout("data=2")],
        reference=Reference(one_process, measure_rounding(one_process, []), FP32_TOLERANCES),
        tolerances=FP32_TOLERANCES,
        folder=tmp_path,
        start=lambda *_, **__: None,  # The ranks end without a record.
        report_progress=lambda _: None,
    )
    assert row.error is not None and "steps.json is missing" in row.error
    with pytest.raises(ParityError, match=r"one process: its record cannot be read: .*steps\.json"):
        measure_one_process(
            RunConfig.model_validate(VALUES), folder=tmp_path / "own", start=lambda *_, **__: None
        )
