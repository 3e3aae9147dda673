"""Names of files that a rank writes for its agent, in the agent's temporary folder."""

from pathlib import Path


def collectives_file(stacks_file: Path) -> Path:
    """The file for a rank's last collectives, beside the one for its stacks."""
    return stacks_file.with_name(f"{stacks_file.name}.collectives")
