"""The version of bigtrain that a job records in what it writes."""

from importlib.metadata import PackageNotFoundError, version


def tool_version() -> str:
    """Gives the installed version; `unknown` where the package is not installed."""
    try:
        return version("bigtrain")
    except PackageNotFoundError:
        return "unknown"
