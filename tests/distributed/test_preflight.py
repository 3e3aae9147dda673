"""The preflight with real ranks: nodes are groups of processes of this machine."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import render_config
from bigtrain.runs.node_check_arguments import node_check_arguments
from launcher.environment import read_environment
from launcher.ports import find_free_port
from launcher.preflight.checks import run_checks
from launcher.preflight.preflight import PreflightPlan, run_preflight
from tests.runs import make_corpus, tiny_config

RANKS_PER_NODE = 1
SECONDS = 100


@dataclass
class _Answer:
    result: Mapping[str, Any]
    error: str = ""


@dataclass
class _End:
    failed_nodes: Sequence[str]
    message: str
    timed_out: bool = False


@dataclass
class LocalNodes:
    """Each node is a name; its checks and ranks are real, and its environment can be broken."""

    nodes: Sequence[str]
    variables: Mapping[str, Mapping[str, str]]

    async def ask(self, node: str, arguments: Mapping[str, Any], *, seconds: float) -> _Answer:
        return _Answer(await asyncio.to_thread(run_checks, arguments))

    async def run_ranks(
        self, nodes: Sequence[str], command: Sequence[str], *, seconds: float
    ) -> _End:
        port = find_free_port()
        ranks = [
            await asyncio.create_subprocess_exec(
                *command,
                env={
                    **read_environment(),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank % RANKS_PER_NODE),
                    "WORLD_SIZE": str(len(nodes) * RANKS_PER_NODE),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "OMP_NUM_THREADS": "1",
                    **self.variables.get(nodes[rank // RANKS_PER_NODE], {}),
                },
                stderr=asyncio.subprocess.PIPE,
            )
            for rank in range(len(nodes) * RANKS_PER_NODE)
        ]
        try:
            ends = await asyncio.wait_for(
                asyncio.gather(*(r.communicate() for r in ranks)), seconds
            )
        except TimeoutError:
            return _End(nodes, f"not done within {seconds:.0f} s", timed_out=True)
        finally:
            for rank in ranks:
                with suppress(ProcessLookupError):
                    os.kill(rank.pid, signal.SIGKILL)
        failed = [n for n, rank in enumerate(ranks) if rank.returncode]
        if not failed:
            return _End((), "")
        return _End([nodes[failed[0]]], ends[failed[0]][1].decode().strip().splitlines()[-1])


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> PreflightPlan:
    folder = tmp_path_factory.mktemp("preflight")
    config = tiny_config(make_corpus(folder), folder / "runs", name="checked")
    file = folder / "config-job.yaml"
    file.write_text(render_config(config))
    return PreflightPlan(
        arguments=node_check_arguments(config, config_file=file, gpus_per_node=0),
        command=(sys.executable, "-m", "bigtrain.cli", "preflight-rank", str(file)),
        ranks_per_node=RANKS_PER_NODE,
        folder=folder / "figures",
        file=folder / "preflight.json",
        node_seconds=SECONDS,
        pair_seconds=SECONDS,
    )


def test_a_node_whose_ranks_cannot_start_is_bad_and_the_others_are_measured(
    plan: PreflightPlan,
) -> None:
    broken = {"n2": {"RANK": "no number"}}
    verdict = asyncio.run(run_preflight(LocalNodes(["n1", "n2", "n3"], broken), plan))
    assert verdict.refusal == ""
    assert "n2" in verdict.bad
    assert "RANK='no number' in the environment is not a whole number" in verdict.bad["n2"]
    nodes = json.loads(plan.file.read_text())["nodes"]
    for name in ("n1", "n3"):
        assert nodes[name]["checks"]["product"]["value"] > 1e8
        assert nodes[name]["checks"]["pair_all_reduce"]["value"] > 1e6
        assert nodes[name]["checks"]["data"]["value"] == "4 files, 2 tars"
        assert nodes[name]["checks"]["folders"]["problem"] == ""


def test_ranks_of_a_node_measure_the_all_reduce_between_them(
    plan: PreflightPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.distributed.test_preflight.RANKS_PER_NODE", 2)
    nodes = LocalNodes(["n1"], {})
    command = [*plan.command, "--folder", str(tmp_path)]
    assert asyncio.run(nodes.run_ranks(["n1"], command, seconds=SECONDS)).message == ""
    found = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert all(set(rates) == {"product", "all_reduce"} for rates in found)
    assert found[0]["all_reduce"] == found[1]["all_reduce"] > 1e6
