"""The sequence of the preflight, with nodes whose figures are made up."""

import asyncio
import errno
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from launcher.preflight.preflight import PreflightPlan, run_preflight, summarize

GOOD_CHECKS = {"versions": {"value": {"torch": "2.9"}, "problem": "", "seconds": 0.1}}


@dataclass
class _Answer:
    result: Mapping[str, Any]
    error: str = ""
    timed_out: bool = False


@dataclass
class _End:
    failed_nodes: Sequence[str] = ()
    message: str = ""
    timed_out: bool = False


@dataclass
class MadeUpNodes:
    """Nodes of two ranks each; rates are those of a good node unless given."""

    nodes: Sequence[str]
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Results of the checks without ranks."""
    silent: Sequence[str] = ()
    """Nodes whose agent does not answer."""
    products: dict[str, list[float]] = field(default_factory=dict)
    """Rates of the matrix product: one for each time the node is measured."""
    network: dict[str, float | None] = field(default_factory=dict)
    """Rate of the all-reduce with other nodes; None if it never ends."""
    crashes: Sequence[str] = ()
    """Nodes whose ranks fail."""
    mute: Sequence[str] = ()
    """Nodes whose ranks end well and write nothing."""
    slow_starts: Sequence[str] = ()
    """Nodes whose ranks do not measure anything within the limit."""
    skew: dict[str, float] = field(default_factory=dict)
    ran: list[tuple[str, ...]] = field(default_factory=list)

    async def ask(self, node: str, arguments: Mapping[str, Any], *, seconds: float) -> _Answer:
        if node in self.silent:
            return _Answer({}, f"no answer within {seconds:.0f} s", timed_out=True)
        found = {} if arguments.get("only_clock") else {**GOOD_CHECKS, **self.checks.get(node, {})}
        return _Answer({"time": time.time() + self.skew.get(node, 0), "checks": found})

    async def run_ranks(
        self, nodes: Sequence[str], command: Sequence[str], *, seconds: float
    ) -> _End:
        self.ran.append(tuple(nodes))
        folder = Path(command[command.index("--folder") + 1])
        if crashed := [node for node in nodes if node in self.crashes]:
            return _End(crashed, f"rank 0 on {crashed[0]}: CUDA error")
        if set(self.mute) & set(nodes):
            return _End()
        rates: dict[str, float | None] = {}
        if "--pair" in command:
            speeds = [self.network.get(node, 10e9) for node in nodes]
            rates["all_reduce"] = None if None in speeds else min(s for s in speeds if s)
        else:
            left = self.products.get(nodes[0], [])
            rates = {"product": left.pop(0) if left else 1e12, "all_reduce": 50e9}
            if nodes[0] in self.slow_starts:
                rates = {"product": None, "all_reduce": None}
        known = {check: rate for check, rate in rates.items() if rate is not None}
        for rank in range(2 * len(nodes)):
            slower = {check: rate * (1 + rank) for check, rate in known.items()}
            (folder / f"rank-{rank}.json").write_text(json.dumps(slower))
        if len(known) == len(rates):
            return _End()
        return _End((), f"not done within {seconds:.0f} s", timed_out=True)


def _plan(folder: Path, **changes: Any) -> PreflightPlan:
    return PreflightPlan(
        arguments={},
        command=changes.pop("command", ("bigtrain", "preflight-rank", "config.yaml")),
        ranks_per_node=2,
        folder=folder / "figures",
        file=folder / "preflight.json",
        **changes,
    )


def _run(nodes: MadeUpNodes, folder: Path, **changes: Any) -> tuple[Any, dict[str, Any]]:
    verdict = asyncio.run(run_preflight(nodes, _plan(folder, **changes)))
    return verdict, json.loads((folder / "preflight.json").read_text())


def test_good_nodes_pass_and_all_figures_are_kept(tmp_path: Path) -> None:
    nodes = MadeUpNodes(["n1", "n2", "n3", "n4"])
    verdict, file = _run(nodes, tmp_path)
    assert (verdict.bad, verdict.refusal) == ({}, "")
    assert summarize(verdict, nodes=4) == "all 4 nodes are good"
    assert nodes.ran == [("n1",), ("n2",), ("n3",), ("n4",), ("n1", "n2"), ("n3", "n4")]
    assert (file["schema"], file["refusal"]) == ("bigtrain-preflight/1", "")
    assert file["pairs"][0] == {"nodes": ["n1", "n2"], "rate": 10e9, "problem": ""}
    checks = file["nodes"]["n3"]["checks"]
    assert list(checks) == ["clock", "versions", "product", "all_reduce", "pair_all_reduce"]
    assert checks["product"]["value"] == 1e12
    assert all("seconds" in check and check["problem"] == "" for check in checks.values())


def test_a_node_with_a_problem_runs_no_ranks(tmp_path: Path) -> None:
    broken = {"gpus": {"value": None, "problem": "7 GPUs of 8", "seconds": 0.2}}
    nodes = MadeUpNodes(["n1", "n2", "n3"], checks={"n2": broken})
    verdict, file = _run(nodes, tmp_path)
    assert verdict.bad == {"n2": "gpus: 7 GPUs of 8"}
    assert summarize(verdict, nodes=3) == "1 of 3 nodes are bad: n2: gpus: 7 GPUs of 8"
    assert not any("n2" in pair for pair in nodes.ran)
    assert file["nodes"]["n2"]["verdict"] == "bad"
    assert file["nodes"]["n1"]["verdict"] == "good"


def test_a_node_that_does_not_answer_is_bad_and_delays_nobody(tmp_path: Path) -> None:
    nodes = MadeUpNodes(["n1", "n2", "n3"], silent=["n1"])
    verdict, _ = _run(nodes, tmp_path)
    assert verdict.bad == {"n1": "agent: no answer within 10 s"}
    assert ("n2", "n3") in nodes.ran


def test_a_wrong_clock_is_found_although_the_answer_takes_time(tmp_path: Path) -> None:
    nodes = MadeUpNodes(["n1", "n2", "n3"], skew={"n3": -30.0})
    verdict, _ = _run(nodes, tmp_path)
    assert verdict.bad.keys() == {"n3"}
    assert verdict.bad["n3"].startswith("clock: 30.0 s behind")


def test_a_slow_node_is_measured_a_second_time_and_is_bad_if_it_is_slow_again(
    tmp_path: Path,
) -> None:
    nodes = MadeUpNodes(["n1", "n2", "n3"], products={"n2": [0.4e12, 0.3e12]})
    verdict, _ = _run(nodes, tmp_path)
    assert verdict.bad == {"n2": "matrix product: 0.4 TFLOP/s is 40% of the median of 1"}
    assert nodes.ran.count(("n2",)) == 2
    assert nodes.ran.count(("n1",)) == 1
    assert nodes.ran[-1] == ("n1", "n3")


def test_a_node_that_was_slow_for_a_moment_is_good(tmp_path: Path) -> None:
    nodes = MadeUpNodes(["n1", "n2", "n3"], products={"n2": [0.3e12, 0.9e12]})
    verdict, file = _run(nodes, tmp_path)
    assert verdict.bad == {}
    assert file["nodes"]["n2"]["checks"]["product"]["value"] == 0.9e12


def test_a_node_whose_ranks_fail_is_bad_with_their_error(tmp_path: Path) -> None:
    verdict, _ = _run(MadeUpNodes(["n1", "n2", "n3"], crashes=["n3"]), tmp_path)
    assert verdict.bad == {"n3": "product: rank 0 on n3: CUDA error"}


def test_a_node_whose_ranks_write_no_figures_is_bad(tmp_path: Path) -> None:
    verdict, _ = _run(MadeUpNodes(["n1", "n2", "n3"], mute=["n3"]), tmp_path)
    assert verdict.bad == {"n3": "product: rank 0 wrote no figures"}


def test_a_node_with_a_slow_network_is_bad_and_its_partner_is_not(tmp_path: Path) -> None:
    nodes = MadeUpNodes(["n1", "n2", "n3", "n4"], network={"n2": 2e9})
    verdict, _ = _run(nodes, tmp_path)
    expected = "all-reduce with other nodes: 2 GB/s is 20% of the median of 10"
    assert verdict.bad == {"n2": expected}


def test_a_node_that_never_comes_to_an_all_reduce_is_bad(tmp_path: Path) -> None:
    nodes = MadeUpNodes(["n1", "n2", "n3", "n4"], network={"n1": None})
    verdict, _ = _run(nodes, tmp_path)
    assert verdict.bad.keys() == {"n1"}
    assert verdict.bad["n1"].endswith(": not done within 180 s")


def test_if_no_two_nodes_can_communicate_the_job_is_refused(tmp_path: Path) -> None:
    nodes = MadeUpNodes(["n1", "n2", "n3", "n4"], network=dict.fromkeys(["n1", "n2", "n3"]))
    verdict, file = _run(nodes, tmp_path)
    assert verdict.bad == {}
    assert verdict.refusal.startswith("no two nodes can communicate (between n1 and n2: not done")
    assert "network_interface" in verdict.refusal
    assert file["refusal"] == verdict.refusal == summarize(verdict, nodes=4)


def test_a_job_that_is_refused_runs_no_ranks(tmp_path: Path) -> None:
    full = {"folders": {"value": None, "problem": "/runs has 1 GiB free", "seconds": 0.2}}
    nodes = MadeUpNodes(["n1", "n2"], checks={"n1": full, "n2": full})
    verdict, _ = _run(nodes, tmp_path)
    assert verdict.refusal == "all nodes: folders: /runs has 1 GiB free"
    assert nodes.ran == []


def test_a_run_without_ranks_to_measure_is_checked_too(tmp_path: Path) -> None:
    nodes = MadeUpNodes(["n1"])
    verdict, _ = _run(nodes, tmp_path, command=())
    assert verdict.bad == {}
    assert nodes.ran == []
    assert summarize(verdict, nodes=1) == "the node is good"


def test_a_single_node_has_no_pairs(tmp_path: Path) -> None:
    nodes = MadeUpNodes(["n1"])
    _run(nodes, tmp_path)
    assert nodes.ran == [("n1",)]


def test_figures_of_an_earlier_preflight_do_not_count(tmp_path: Path) -> None:
    old = tmp_path / "figures" / "n1-1"
    old.mkdir(parents=True)
    for rank in (0, 1):
        (old / f"rank-{rank}.json").write_text('{"product": 1e12, "all_reduce": 5e10}')
    nodes = MadeUpNodes(["n1", "n2"], crashes=["n1"])
    verdict, file = _run(nodes, tmp_path)
    assert verdict.bad.keys() == {"n1"}
    assert file["nodes"]["n1"]["checks"]["product"]["value"] is None


@pytest.mark.parametrize("blocked", ["preflight.json", "figures"])
def test_a_run_folder_that_cannot_be_written_refuses_the_job(tmp_path: Path, blocked: str) -> None:
    if blocked == "figures":
        (tmp_path / blocked).write_text("")
    else:
        (tmp_path / blocked).mkdir()
    verdict = asyncio.run(run_preflight(MadeUpNodes(["n1"]), _plan(tmp_path)))
    assert str(tmp_path) in verdict.refusal
    assert verdict.refusal.endswith("the run cannot write here")


def test_nodes_that_start_slowly_together_are_neither_bad_nor_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = MadeUpNodes(["n1", "n2", "n3", "n4"], slow_starts=["n1", "n2"])
    verdict, file = _run(nodes, tmp_path)
    assert (verdict.bad, verdict.refusal) == ({}, "")
    assert nodes.ran.count(("n1",)) == 1 and nodes.ran[4:] == [("n3", "n4")]
    assert file["nodes"]["n1"]["checks"]["product"]["problem"] == "not done within 300 s"
    assert "n1, n2: product: not done within 300 s" in caplog.text


def test_all_nodes_that_start_too_slowly_are_used(tmp_path: Path) -> None:
    verdict, _ = _run(MadeUpNodes(["n1", "n2"], slow_starts=["n1", "n2"]), tmp_path)
    assert (verdict.bad, verdict.refusal) == ({}, "")


def test_a_single_node_that_starts_too_slowly_among_many_is_bad(tmp_path: Path) -> None:
    verdict, _ = _run(MadeUpNodes(["n1", "n2", "n3"], slow_starts=["n2"]), tmp_path)
    assert verdict.bad == {"n2": "product: not done within 300 s"}


def test_a_run_folder_that_fails_for_a_time_does_not_refuse_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", "preflight.json")

    monkeypatch.setattr("launcher.preflight.preflight.replace_file", fail)
    with pytest.raises(OSError, match="Stale file handle"):
        asyncio.run(run_preflight(MadeUpNodes(["n1"]), _plan(tmp_path)))
