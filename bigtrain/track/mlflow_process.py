"""Calls MLflow, in the process of the MLflow sink (`sink_process`).

MLflow keeps every point that it gets, so a step must be sent once: the newest step of each split
is read from the MLflow run, and older ones are not sent again. What the run lacks up to the first
step of this attempt comes from ``metrics.jsonl``. If the server does not answer, points wait here.
"""

import math
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bigtrain.environment import set_mlflow_variables
from bigtrain.track.metrics_file import read_missing
from bigtrain.track.mlflow_run import MlflowRun, flat_params, open_run
from bigtrain.track.sink_process import Message, Report, one_line, serve

SEND_SECONDS = 1.0
"""Time between two requests; the points of all steps in between are sent together."""
RETRY_SECONDS = 10.0
"""Time between two tries while the server does not answer."""
MAX_WAITING = 250_000
"""Most points that wait for the server; with 25 figures a step, 10,000 steps."""
MAX_BATCH = 1000
"""Most points that MLflow takes in one request."""
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class UnansweredError(RuntimeError):
    """Too many points wait for a server that does not answer."""


class MlflowBackend:
    """The MLflow run of a run folder."""

    idle_seconds: float | None = SEND_SECONDS

    def open(self, request: Message, report: Report) -> None:
        """Imports MLflow; the run is opened with the first points, since that needs the server."""
        set_mlflow_variables()
        from mlflow import MlflowClient

        report(imported=True)
        self._request, self._report = request, report
        self._client = MlflowClient(tracking_uri=request["uri"])
        self._run: MlflowRun | None = None
        self._waiting: list[Any] = []
        self._next_try, self._is_answering = 0.0, True
        self._send()

    def log(self, messages: list[Message]) -> None:
        """Sends points, if the last request is long enough ago; else they wait.

        Raises:
            UnansweredError: Too many points wait.
        """
        for message in messages:
            step = message.pop("step")
            self._waiting += points_of(message, step)
        if len(self._waiting) > MAX_WAITING:
            raise UnansweredError(
                f"{self._request['uri']} has not answered while {MAX_WAITING:,} points were "
                "recorded; the next attempt sends them"
            )
        if time.monotonic() >= self._next_try:
            self._send()

    def finish(self, state: str) -> None:
        """Sends what waits, and ends the run; tries until it succeeds or the process is killed."""
        while not self._send():
            time.sleep(1.0)
        while not self._try(lambda run: self._client.set_terminated(run.id, _STATUS[state])):
            time.sleep(1.0)

    def describe(self, error: BaseException) -> str:
        """One line about an error; only the text of one that MLflow raised."""
        text = " ".join(str(error).split())
        is_plain = type(error).__module__.startswith(("mlflow", __name__, "bigtrain", "__main__"))
        return text[:300] if text and is_plain else one_line(error)

    def _send(self) -> bool:
        """Sends what waits; returns whether all of it was sent."""
        if self._run is not None and not self._waiting:
            return True
        is_done = self._try(self._send_waiting)
        self._next_try = time.monotonic() + (SEND_SECONDS if is_done else RETRY_SECONDS)
        return is_done

    def _send_waiting(self, run: "MlflowRun") -> None:
        while self._waiting:
            batch = self._waiting[:MAX_BATCH]
            self._client.log_batch(run.id, metrics=self._metrics(batch, run))
            del self._waiting[: len(batch)]

    def _metrics(self, points: Iterable[tuple[str, float, int, int]], run: MlflowRun) -> list[Any]:
        from mlflow.entities import Metric

        return [
            Metric(key, value, milliseconds, step)
            for key, value, milliseconds, step in points
            if step > run.newest.get(key.partition("/")[0], -1)
        ]

    def _try(self, call: Any) -> bool:
        """Calls ``call(run)``; returns whether the server answered.

        Raises:
            MlflowException: Trying again cannot help, for example without permission.
        """
        from mlflow.exceptions import MlflowException

        try:
            if self._run is None:
                self._run = self._open()
            call(self._run)
        except MlflowException as error:
            code = error.get_http_status_code()
            if code < 500 and code not in (408, 429):
                raise
            if self._is_answering:
                self._report(
                    warning=f"mlflow does not answer ({self.describe(error)[:150]}); its points "
                    "wait and are sent later"
                )
            self._is_answering = False
            return False
        if not self._is_answering:
            self._report(info="mlflow answers again")
        self._is_answering = True
        return True

    def _open(self) -> MlflowRun:
        """Opens the run, and sends what it lacks up to the first step of this attempt."""
        request = self._request
        run = open_run(self._client, request)
        if run.is_new:
            _log_params(self._client, run.id, request["config"])
        missing = read_missing(
            Path(request["metrics"]), newest=run.newest, last_step=request["first_step"]
        )
        points = (point for step, values in missing for point in points_of(values, step))
        while batch := list(islice(points, MAX_BATCH)):
            self._client.log_batch(run.id, metrics=self._metrics(batch, run))
        self._report(info=f"mlflow run {run.id} at {request['uri']}")
        return run


def points_of(values: Message, step: int) -> Iterator[tuple[str, float, int, int]]:
    """Yields (key, value, time in ms, step) of each number, and of the step itself."""
    milliseconds = int(time.time() * 1000)
    splits = {key.partition("/")[0] for key in values}
    for key, value in [*values.items(), *((f"{split}/step", step) for split in sorted(splits))]:
        if isinstance(value, int | float) and math.isfinite(value):
            yield _valid_key(key), float(value), milliseconds, step


def _valid_key(key: str) -> str:
    """A key that MLflow accepts: it allows few characters, and reads the key as a file's path."""
    text = "".join(c if (c.isascii() and c.isalnum()) or c in "_-./ " else "_" for c in key)
    return "/".join(part for part in text.split("/") if part.strip("."))[:250].rstrip("/")


def _log_params(client: Any, run_id: str, config: dict[str, Any]) -> None:
    from mlflow.entities import Param

    params = [Param(key, value) for key, value in flat_params(config)]
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), MlflowBackend())
