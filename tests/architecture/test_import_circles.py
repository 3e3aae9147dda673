"""No module of ours imports another that imports it in turn, at the time of its import."""

import ast
from collections.abc import Iterator, Mapping

from tests.architecture.source_tree import Source, load_sources


def imported_at_once(source: Source, modules: set[str]) -> set[str]:
    """The modules of ours that a module imports before any of its functions is called."""
    found = set()
    for node in _statements(ast.parse(source.text)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names, level=0):
                found |= {module, *(f"{module}.{alias.name}" for alias in names)}
    return found & modules - {source.module}


def find_circle(imports: Mapping[str, set[str]]) -> list[str]:
    """The modules that are in a circle, or behind one; none if there is no circle."""
    left = {module: {*others} for module, others in imports.items()}
    while ready := [module for module, others in left.items() if not others]:
        for module in ready:
            del left[module]
        for others in left.values():
            others.difference_update(ready)
    return sorted(left)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements outside functions and outside ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _statements(child)


def test_no_modules_import_each_other() -> None:
    sources = load_sources()
    modules = {source.module for source in sources}
    assert not find_circle({each.module: imported_at_once(each, modules) for each in sources})


def test_a_circle_would_be_seen() -> None:
    modules = {"a", "b", "c"}
    texts = {"a": "from b import x", "b": "import c", "c": "if True:\n    from a import y"}
    circle = {name: imported_at_once(Source(name, text), modules) for name, text in texts.items()}
    assert find_circle(circle) == ["a", "b", "c"]
    later = Source("c", "def f():\n    import a\nif TYPE_CHECKING:\n    import a")
    assert not find_circle({**circle, "c": imported_at_once(later, modules)})
