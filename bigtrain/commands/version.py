"""The installed versions, for ``bigtrain --version``: read from metadata, without loading torch."""

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

_PACKAGES = {
    "torch": "torch",
    "megatron-core": "megatron-core",
    "DeepSpeed": "deepspeed",
    "transformers": "transformers",
}
_GIT_SECONDS = 2.0


def render_version() -> str:
    """Renders two lines: bigtrain's version and commit, and the versions that a run depends on."""
    commit = find_commit()
    ours = f"bigtrain {_version('bigtrain')}" + (f" (commit {commit})" if commit else "")
    theirs = [f"{name} {_version(package)}" for name, package in _PACKAGES.items()]
    return f"{ours}\n{', '.join([*theirs, f'Python {platform.python_version()}'])}"


def find_commit() -> str | None:
    """The commit of the code, with ``-dirty`` if files were changed; None if it is unknown."""
    root = Path(__file__).resolve().parents[2]
    # An installed package may be inside the folder of another repository.
    if (root / ".git").exists():
        return _commit_of(root)
    try:
        source = json.loads(distribution("bigtrain").read_text("direct_url.json") or "{}")
        return str(source["vcs_info"]["commit_id"])[:12]
    except (PackageNotFoundError, KeyError, ValueError):
        return None


def _commit_of(root: Path) -> str | None:
    words = ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=_GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):  # No git, or a slow disk.
        return None
    return result.stdout.strip() or None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"
