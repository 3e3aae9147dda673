"""The version of bigtrain that a job records in its output."""

from importlib.metadata import PackageNotFoundError, version


def tool_version() -> str:
    """The installed version; `unknown` if the package is not installed."""
    try:
        return version("bigtrain")
    except PackageNotFoundError:
        return "unknown"
