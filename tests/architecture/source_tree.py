"""The Python modules of the packages, and every dotted name that each imports or uses."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("bigtrain", "launcher", "data_tools")


@dataclass(frozen=True, slots=True)
class Source:
    """One Python module of the packages."""

    module: str
    """The module's dotted name; for an ``__init__.py``, that of its folder."""
    text: str
    is_package: bool = False

    @property
    def path(self) -> str:
        return self.module.replace(".", "/") + ("/__init__.py" if self.is_package else ".py")


@dataclass(frozen=True, slots=True)
class Reference:
    """A dotted name that a module imports, uses or calls, and its line."""

    module: str
    name: str
    line: int
    is_call: bool = False

    def __str__(self) -> str:
        return f"{self.module}:{self.line} uses {self.name}"


def load_sources(packages: Sequence[str] = PACKAGES) -> list[Source]:
    """Loads every Python module of ``packages``."""
    sources = []
    for package in packages:
        for file in sorted((REPOSITORY / package).rglob("*.py")):
            parts = file.relative_to(REPOSITORY).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            sources.append(Source(module, file.read_text(encoding="utf-8"), is_package))
    return sources


def find_references(source: Source) -> list[Reference]:
    """Finds every imported name that a module uses, also inside functions.

    ``import a.b as c; c.d.e()`` uses ``a.b`` and ``a.b.d.e``.
    """
    tree = ast.parse(source.text)
    imported = list(_imports(tree, source))
    aliases = {alias: name for alias, name, _ in imported}
    found = [Reference(source.module, name, line) for _, name, line in imported]
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        name = _dotted(node, aliases)
        if name is not None:
            found.append(Reference(source.module, name, node.lineno, id(node) in called))  # type: ignore[attr-defined]
    return found


def device_forks(source: Source) -> list[Reference]:
    """Finds code that depends on CUDA: ``x == "cuda"``, ``x.is_cuda`` or ``x.cuda()``."""
    found = []
    for node in ast.walk(ast.parse(source.text)):
        match node:
            case ast.Compare() | ast.MatchValue():
                depends = any(
                    isinstance(n, ast.Constant) and n.value == "cuda" for n in ast.walk(node)
                )
            case ast.Attribute(attr="is_cuda") | ast.Call(func=ast.Attribute(attr="cuda")):
                depends = True
            case _:
                continue
        if depends:
            found.append(Reference(source.module, ast.unparse(node), node.lineno))
    return found


def is_within(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted name equals one of ``prefixes`` or starts with one of them and a dot."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _imports(tree: ast.Module, source: Source) -> Iterator[tuple[str, str, int]]:
    """Yields (local name, full dotted name, line) of every import."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    root = alias.name.split(".")[0]
                    yield alias.asname or root, alias.name if alias.asname else root, node.lineno
                    yield f"({alias.name})", alias.name, node.lineno
            case ast.ImportFrom(module=module, names=names, level=level):
                base = _absolute(module, level, source)
                for alias in names:
                    name = base if alias.name == "*" else f"{base}.{alias.name}"
                    yield alias.asname or alias.name, name, node.lineno
            case ast.Call(args=[ast.Constant(value=str(name)), *_], func=function) if ast.unparse(
                function
            ).split(".")[-1] in {"import_module", "__import__"}:
                yield f"({name})", name, node.lineno


def _absolute(module: str | None, level: int, source: Source) -> str:
    if not level:
        return module or ""
    parents = source.module.split(".")
    parents = parents[: len(parents) - level + source.is_package]
    return ".".join([*parents, module] if module else parents)


def _dotted(node: ast.AST, aliases: dict[str, str]) -> str | None:
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in aliases:
        return None
    return ".".join([aliases[node.id], *reversed(attributes)])
