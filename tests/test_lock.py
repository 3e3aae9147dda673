"""requirements.lock pins the requirements of pyproject.toml on every supported machine."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
MACHINES = [
    {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    for python in ("3.11", "3.12", "3.13")
    for machine in ("x86_64", "aarch64")
]


def locked_lines() -> list[tuple[Requirement, bool]]:
    """The pins of the lock, and whether pyproject.toml itself requires each."""
    text = (REPOSITORY / "requirements.lock").read_text()
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    return [
        (Requirement(block.partition("\n")[0]), "bigtrain (pyproject.toml)" in block)
        for block in blocks
    ]


def pins(machine: dict[str, str]) -> dict[str, str]:
    """The version of each package on a machine, by canonical name."""
    found = {}
    for line, _ in locked_lines():
        if line.marker is None or line.marker.evaluate(machine):
            name, (pin,) = canonicalize_name(line.name), tuple(line.specifier)
            assert pin.operator == "==", f"{line} is not pinned"
            assert name not in found, f"{name} is pinned twice for one machine"
            found[name] = pin.version
    return found


def asked_for() -> list[Requirement]:
    """The requirements of pyproject.toml and its extras, without bigtrain itself."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    wanted = [Requirement(line) for line in lines]
    return [requirement for requirement in wanted if requirement.name != "bigtrain"]


def needed_here(machine: dict[str, str]) -> Iterator[tuple[str, Requirement]]:
    """Yields (requiring package, requirement) of all direct and indirect requirements."""
    waiting = [("pyproject.toml", requirement) for requirement in asked_for()]
    seen = set()
    while waiting:
        by, requirement = waiting.pop()
        yield by, requirement
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            lines = requires(requirement.name) or []
        except PackageNotFoundError:  # Such as CUDA's libraries beside a CPU build of torch.
            continue
        for line in lines:
            inner = Requirement(line)
            environments = [{**machine, "extra": extra} for extra in ("", *requirement.extras)]
            if inner.marker is None or any(inner.marker.evaluate(e) for e in environments):
                waiting.append((requirement.name, inner))


@pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda m: f"{m['python_version']}-{m['platform_machine']}"
)
def test_every_requirement_has_one_pin_that_satisfies_it(machine: dict[str, str]) -> None:
    locked = pins(machine)
    asked = [r for r in asked_for() if r.marker is None or r.marker.evaluate(machine)]
    assert len(asked) > 20
    for requirement in asked:
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in the lock: run `make lock`"
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{requirement} does not allow {version}, which the lock has: run `make lock`"
        )


def test_the_lock_was_made_from_this_pyproject() -> None:
    direct = {canonicalize_name(line.name) for line, is_direct in locked_lines() if is_direct}
    assert direct == {canonicalize_name(requirement.name) for requirement in asked_for()}


def test_the_pins_satisfy_each_others_requirements() -> None:
    import platform

    version = platform.python_version()
    machine = {
        **MACHINES[0],
        "python_version": ".".join(version.split(".")[:2]),
        "python_full_version": version,
        "platform_machine": platform.machine(),
    }
    locked, checked = pins(machine), 0
    for by, requirement in needed_here(machine):
        pin = locked.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{by} needs {requirement}, which is not in the lock"
        assert requirement.specifier.contains(pin, prereleases=True), (
            f"{by} needs {requirement}, and the lock has {pin}: run `make lock`"
        )
        checked += 1
    assert checked > 100


def test_the_lock_names_no_index() -> None:
    assert "://" not in (REPOSITORY / "requirements.lock").read_text()
