"""The glossary of bigtrain/README.md: its names exist, and its drawing shows what the code does."""

import ast
import re

import pytest

from bigtrain.config.layout import parse_layout
from bigtrain.engine.boxes import blocks_of_range
from tests.architecture.source_tree import REPOSITORY

README = (REPOSITORY / "bigtrain/README.md").read_text(encoding="utf-8")
GLOSSARY = README.partition("\n## Glossary\n")[2].partition("\n## ")[0]
DRAWING = GLOSSARY.partition("```text\n")[2].partition("```")[0]
NAMES = re.findall(r"`([\w/]+\.py)`: `([\w.]+)`", GLOSSARY)


def defined_names(text: str) -> set[str]:
    """Functions and classes of a module, and ``Class.member`` for what is in a class."""
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{member}" for member in map(_member, node.body) if member}
    return names


def _member(node: ast.stmt) -> str | None:
    match node:
        case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return None


@pytest.mark.parametrize(("file", "name"), NAMES)
def test_a_name_in_the_glossary_exists_in_its_file(file: str, name: str) -> None:
    folder = REPOSITORY if file.startswith("launcher/") else REPOSITORY / "bigtrain"
    assert name in defined_names((folder / file).read_text(encoding="utf-8"))


def test_every_word_of_the_glossary_has_a_name() -> None:
    rows = [line for line in GLOSSARY.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    assert all(re.search(r"`[\w/]+\.py`: `\w", row) for row in rows)
    drawn = re.findall(r"^(\w+) {2,}", DRAWING, re.MULTILINE)
    assert drawn == ["parameter", "shard", "fragment", "box", "file"]
    assert {"shard", "fragment", "box"} <= {row.split(" | ")[0].strip("| ") for row in rows}


def test_the_drawing_shows_the_boxes_that_the_engine_cuts() -> None:
    ranges = re.findall(r"replica rank (\d): elements (\d+) to (\d+)", DRAWING)
    assert [rank for rank, _, _ in ranges] == ["0", "1"]
    columns = [
        ", ".join(
            f"{list(size)} at {offset}"
            for offset, size in blocks_of_range((4, 3), int(first), int(last) + 1)
        )
        for _, first, last in ranges
    ]
    assert re.search(r"^box +(.+?) {2,}(.+)$", DRAWING, re.MULTILINE).groups() == (*columns,)


def test_the_drawing_names_the_files_of_the_ranks() -> None:
    layout = parse_layout(re.search(r"with `([^`]+)`", GLOSSARY)[1])
    by_place = {
        (at.tensor, at.replica): rank
        for rank in range(layout.world_size)
        for at in [layout.coordinates(rank)]
    }
    files = re.search(r"^file +(\S+) +(\S+)$", DRAWING, re.MULTILINE).groups()
    assert files == tuple(f"rank-{by_place[0, replica]:05}.bin" for replica in (0, 1))


def test_a_name_that_is_gone_would_be_seen() -> None:
    names = defined_names("class A:\n    b: int\n    def c(self): ...\ndef d(): ...")
    assert names == {"A", "A.b", "A.c", "d"}
