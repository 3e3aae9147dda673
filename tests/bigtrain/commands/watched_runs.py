"""Run folders as a supervisor leaves them, for the tests of the commands that watch a run."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bigtrain.config.cluster import ClusterConfig
from bigtrain.runs.job_file import JobRecord, write_job


def iso(seconds_ago: float) -> str:
    """The time so many seconds ago, as the files have it."""
    return datetime.fromtimestamp(time.time() - seconds_ago, UTC).isoformat()


def add_job(run: Path, *jobs: str, state: str = "running", **cluster: Any) -> JobRecord:
    """Writes job.json as `launch` and the supervisor do."""
    run.mkdir(parents=True, exist_ok=True)
    profile = ClusterConfig.model_validate(cluster)
    record = JobRecord(
        scheduler=profile.scheduler,
        jobs=jobs,
        submitted=iso(7200),
        host="login1",
        nodes=2,
        spares=0,
        ranks_per_node=2,
        cluster=profile,
        state=state,  # type: ignore[arg-type]
    )
    write_job(run, record)
    return record


def add_supervisor(run: Path, *, state: str = "running", age: float = 1.0, **values: Any) -> None:
    """Writes supervisor.json, of two nodes with two ranks each."""
    nodes = {
        "n1": {
            "state": "in_use",
            "ranks": "0-1",
            "phase": "train",
            "step": 41,
            "seconds_since": 0.4,
        },
        "n2": {
            "state": "in_use",
            "ranks": "2-3",
            "phase": "train",
            "step": 41,
            "seconds_since": 0.2,
        },
    }
    content = {
        "schema": "bigtrain-supervisor/1",
        "time": iso(age),
        "job": "6",
        "host": "n1",
        "pid": 4711,
        "state": state,
        "attempt_ends": 0,
        "message": "4 ranks train",
        "nodes": nodes,
        **values,
    }
    (run / "supervisor.json").write_text(json.dumps(content))


def add_status(run: Path, *, state: str = "running", age: float = 1.0, **values: Any) -> None:
    """Writes status.json as rank 0 does."""
    run.mkdir(parents=True, exist_ok=True)
    content = {
        "state": state,
        "step": 41,
        "loss": 2.5,
        "tokens_per_second": 1000.0,
        "last_checkpoint": None,
        "reason": None,
        "time": iso(age),
        **values,
    }
    (run / "status.json").write_text(json.dumps(content))


def add_events(run: Path, *events: dict[str, Any]) -> None:
    """Appends to attempts.jsonl."""
    with (run / "attempts.jsonl").open("a") as file:
        file.writelines(f"{json.dumps(event)}\n" for event in events)
