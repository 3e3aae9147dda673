"""``python -m launcher.agent``: runs the agent of a node until the job ends."""

import asyncio
import logging
import sys

from launcher.agent.agent import run_agent
from launcher.agent.options import read_options


def main() -> None:
    """Runs the agent until the job ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    sys.exit(asyncio.run(run_agent(read_options(sys.argv[1:]))))


if __name__ == "__main__":
    main()
