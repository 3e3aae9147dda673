"""Our Python files, and what each one reaches for: every dotted name that it imports or follows."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("bigtrain", "launcher", "data_tools")


@dataclass(frozen=True, slots=True)
class Source:
    """One Python module of ours."""

    module: str
    """Its dotted name; a package's is that of its folder."""
    text: str
    is_package: bool = False

    @property
    def path(self) -> str:
        return self.module.replace(".", "/") + ("/__init__.py" if self.is_package else ".py")


@dataclass(frozen=True, slots=True)
class Reach:
    """A dotted name that a module imports, follows or calls, and where."""

    module: str
    name: str
    line: int
    is_call: bool = False

    def __str__(self) -> str:
        return f"{self.module}:{self.line} reaches {self.name}"


def load_sources(packages: Sequence[str] = PACKAGES) -> list[Source]:
    """All Python files of our packages."""
    sources = []
    for package in packages:
        for file in sorted((REPOSITORY / package).rglob("*.py")):
            parts = file.relative_to(REPOSITORY).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            sources.append(Source(module, file.read_text(encoding="utf-8"), is_package))
    return sources


def reaches(source: Source) -> list[Reach]:
    """Every foreign or own name that a module reaches for, inside functions too.

    ``import a.b as c; c.d.e()`` reaches ``a.b`` and ``a.b.d.e``.
    """
    tree = ast.parse(source.text)
    imported = list(_imports(tree, source))
    aliases = {alias: name for alias, name, _ in imported}
    found = [Reach(source.module, name, line) for _, name, line in imported]
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        name = _dotted(node, aliases)
        if name is not None:
            found.append(Reach(source.module, name, node.lineno, id(node) in called))  # type: ignore[attr-defined]
    return found


def device_forks(source: Source) -> list[Reach]:
    """Where a module asks for CUDA: ``x == "cuda"``, ``x.is_cuda`` or ``x.cuda()``."""
    found = []
    for node in ast.walk(ast.parse(source.text)):
        match node:
            case ast.Compare() | ast.MatchValue():
                asks = any(
                    isinstance(n, ast.Constant) and n.value == "cuda" for n in ast.walk(node)
                )
            case ast.Attribute(attr="is_cuda") | ast.Call(func=ast.Attribute(attr="cuda")):
                asks = True
            case _:
                continue
        if asks:
            found.append(Reach(source.module, ast.unparse(node), node.lineno))
    return found


def is_within(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted name is one of ``prefixes`` or stands under one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _imports(tree: ast.Module, source: Source) -> Iterator[tuple[str, str, int]]:
    """Yields (the name it gets here, the dotted name it stands for, line)."""
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
