"""The job that follows the present one in a chain: submitted early, cancelled if not needed."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from launcher.slurm.errors import SlurmError, SlurmUnavailableError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 20.0
GIVE_UP_SECONDS = 900.0
"""How long a request is repeated at the end of a job while SLURM's controller is down."""


@dataclass(slots=True)
class Successor:
    """The job that starts when the present job ends, however that ends.

    It must be cancelled before the present job ends, unless the run continues.
    """

    job_id: str
    """The present job."""
    submit: Callable[[str], str]
    """Submits the job that follows the one with this id, unless it is there already; returns its
    id."""
    cancel: Callable[[str], Sequence[str]]
    """Cancels the jobs of the run that wait in the queue, besides the one with this id."""
    job: str | None = None
    """Its id, once it is known."""
    _problem: Exception | None = None  # of the newest try to submit it
    _released: bool = False
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while SLURM is asked
    _submitting: "asyncio.Task[None] | None" = None
    _releasing: "asyncio.Task[None] | None" = None

    @property
    def is_expected(self) -> bool:
        """Whether it is in the queue, or may be as soon as SLURM's controller answers."""
        is_unclear = isinstance(self._problem, SlurmUnavailableError)
        return not self._released and (self.job is not None or is_unclear)

    async def begin(self) -> None:
        """Submits it; if that fails, tries again until `settle` or `release`."""
        if not await self._try_to_submit():
            self._submitting = asyncio.create_task(self._keep_trying())

    async def settle(self) -> bool:
        """Makes sure that it is in the queue. Waits while SLURM's controller does not answer.

        Returns:
            Whether it is.
        """
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while not await self._try_to_submit():
            if not isinstance(self._problem, SlurmUnavailableError) or time.monotonic() > deadline:
                return False
            await asyncio.sleep(RETRY_SECONDS)
        return not self._released

    async def release(self) -> None:
        """Cancels it; also called several times. Waits while the controller does not answer."""
        self._released = True
        if self._releasing is None:
            self._releasing = asyncio.create_task(self._release())
        await asyncio.shield(self._releasing)

    async def _keep_trying(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            if await self._try_to_submit():
                return

    async def _try_to_submit(self) -> bool:
        """Submits it; returns whether there is nothing left to do."""
        async with self._lock:
            if self._released or self.job is not None:
                return True
            try:
                self.job = await asyncio.to_thread(self.submit, self.job_id)
            except (SlurmError, OSError) as error:
                if str(error) != str(self._problem):
                    logger.error(
                        "the next job of the chain is not submitted yet, trying again: %s", error
                    )
                self._problem = error
                return False
            logger.info("job %s will start when this one ends", self.job)
            return True

    async def _release(self) -> None:
        if self._submitting is not None:
            async with self._lock:  # Not in the middle of a submission.
                self._submitting.cancel()
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            try:
                async with self._lock:
                    await asyncio.to_thread(self.cancel, self.job_id)
                return
            except (SlurmError, OSError) as error:
                logger.error("the next job of the chain was not cancelled: %s", error)
                if not isinstance(error, SlurmUnavailableError) or time.monotonic() > deadline:
                    return
            await asyncio.sleep(RETRY_SECONDS)
