"""Rules for every file: length, a module docstring, no print, no path of one machine."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bigtrain.config import RunConfig, Section, load_config
from bigtrain.config.cluster import ClusterConfig
from data_tools.cleaning.clean_config import CleanConfig
from tests.architecture.source_tree import PACKAGES, REPOSITORY

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
FOLDERS_WITH_README = (*PACKAGES, "configs", "tests")
SYSTEM_FOLDERS = {Path(f"/{name}") for name in ("", "home", "opt", "root", "srv", "tmp", "usr")}
"""Paths that exist on most machines."""

PACKAGE_FILES = sorted(file for name in PACKAGES for file in (REPOSITORY / name).rglob("*.py"))
PYTHON_FILES = [*PACKAGE_FILES, *sorted((REPOSITORY / "tests").rglob("*.py"))]
CONFIGS = sorted(
    str(file.relative_to(REPOSITORY)) for file in (REPOSITORY / "configs").rglob("*.yaml")
)
CONFIG_SCHEMAS: dict[str, type[Section]] = {"data": CleanConfig, "cluster": ClusterConfig}
"""The schema of the files in a folder of `configs/`, where that is not `RunConfig`."""


def _list_files(broken: list[Path]) -> str:
    return ", ".join(str(file.relative_to(REPOSITORY)) for file in broken)


def prints(text: str) -> bool:
    """Whether the code calls print or pprint, or writes to sys.stdout."""
    return any(
        isinstance(node, ast.Call)
        and ast.unparse(node.func)
        in {"print", "builtins.print", "pprint", "pprint.pprint", "sys.stdout.write"}
        for node in ast.walk(ast.parse(text))
    )


def long_functions(text: str) -> list[str]:
    """Functions and methods that have more than ``LONGEST_FUNCTION`` lines."""
    return [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]


def has_docstring(text: str) -> bool:
    """Whether the module has a docstring. An empty `__init__.py` in tests passes."""
    tree = ast.parse(text)
    return not tree.body or bool(ast.get_docstring(tree))


def machine_paths(repository: Path, prefix: Path) -> list[str]:
    """Absolute paths of this machine: the checkout, its parent, the Python environment."""
    paths = {repository, repository.parent, prefix}
    return sorted(str(path) for path in paths if path not in SYSTEM_FOLDERS)


def mentions(text: str, path: str) -> bool:
    """Whether a text contains an absolute path, or a path below it."""
    return re.search(rf"(?<![\w./~-]){re.escape(path)}(?![\w.-])", text) is not None


def _tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = (REPOSITORY / name for name in listed.stdout.split("\0") if name)
    return [file for file in files if file.is_file()]


def test_no_file_is_longer_than_400_lines() -> None:
    long = [file for file in PYTHON_FILES if len(file.read_text().splitlines()) > LONGEST_FILE]
    assert not long, _list_files(long)


def test_no_function_is_longer_than_60_lines() -> None:
    long = [name for file in PACKAGE_FILES for name in long_functions(file.read_text())]
    assert not long


def test_every_module_has_a_docstring() -> None:
    undocumented = [file for file in PYTHON_FILES if not has_docstring(file.read_text())]
    undocumented += [file for file in PACKAGE_FILES if not file.read_text().strip()]
    assert not undocumented, _list_files(undocumented)


def test_no_package_prints() -> None:
    printing = [file for file in PACKAGE_FILES if prints(file.read_text())]
    assert not printing, _list_files(printing)


@pytest.mark.parametrize("folder", FOLDERS_WITH_README)
def test_every_top_level_folder_has_a_readme(folder: str) -> None:
    readme = REPOSITORY / folder / "README.md"
    assert readme.is_file(), f"{folder}/README.md is missing"
    assert readme.read_text().startswith("# ")


def test_the_root_has_no_folder_for_miscellaneous_files() -> None:
    miscellaneous = ("docs", "scripts", "utils", "common")
    assert not [name for name in miscellaneous if (REPOSITORY / name).exists()]


def test_configs_hold_yaml_only() -> None:
    files = [file for file in (REPOSITORY / "configs").rglob("*") if file.is_file()]
    assert not [f for f in files if f.suffix != ".yaml" and f.name != "README.md"]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_loads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    schema = CONFIG_SCHEMAS.get(Path(name).parts[1], RunConfig)
    # A preset of a published size leaves the corpus to its user.
    lacks_data = schema is RunConfig and Path(name).stem != "tiny"
    assert load_config([name, *["data.train=corpora/mine/train"][:lacks_data]], schema)


def test_no_file_contains_a_path_of_this_machine() -> None:
    paths = machine_paths(REPOSITORY, Path(sys.prefix))
    files = _tracked_files()
    with_paths = [
        file
        for file in files
        if any(mentions(file.read_text(encoding="utf-8", errors="replace"), path) for path in paths)
    ]
    assert files
    assert not with_paths, _list_files(with_paths)


def test_the_checks_detect_violations() -> None:
    assert prints("def f():\n    print('x')")
    assert not prints("typer.echo('x')  # print(x)")
    body = "".join(f"    x = {number}\n" for number in range(LONGEST_FUNCTION))
    assert long_functions(f"class A:\n def f(self):\n{body}") == ["f"]
    assert not long_functions(f"async def f():\n{body.partition(chr(10))[2]}")
    assert not has_docstring("import os")
    assert has_docstring('"""Why."""\nimport os')
    assert mentions("see '/builds/me/x.txt'", "/builds/me")
    assert mentions("see /builds/me", "/builds/me")
    assert not mentions("see a/builds/me and /builds/metal", "/builds/me")
    home = Path("/home/me")
    assert machine_paths(home / "bigtrain", Path("/usr")) == ["/home/me", "/home/me/bigtrain"]
