"""Nodes that failed lately are avoided for a day."""

import json
import logging
import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from launcher.excluded_nodes import load_excluded, remember_excluded

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_node_is_avoided_for_a_day(tmp_path: Path) -> None:
    remember_excluded(tmp_path, ["n3"], reason="GPU 2 is slow", run="a", now=NOW)
    (node,) = load_excluded(tmp_path, now=NOW + timedelta(hours=23))
    assert (node.node, node.reason, node.run) == ("n3", "GPU 2 is slow", "a")
    assert str(node) == "n3 until 2026-01-02 12:00 UTC (a: GPU 2 is slow)"
    assert load_excluded(tmp_path, now=NOW + timedelta(hours=25)) == []


def test_a_node_that_fails_again_is_avoided_for_longer_and_old_entries_go(tmp_path: Path) -> None:
    remember_excluded(tmp_path, ["n3", "n1"], reason="x", run="a", now=NOW, hours=2)
    later = NOW + timedelta(hours=1)
    remember_excluded(tmp_path, ["n3"], reason="y", run="b", now=later)
    assert [each.node for each in load_excluded(tmp_path, now=later)] == ["n1", "n3"]
    remember_excluded(tmp_path, ["n5"], reason="z", run="b", now=NOW + timedelta(hours=3))
    values = json.loads((tmp_path / "excluded-nodes.json").read_text())
    assert list(values) == ["n3", "n5"]
    assert values["n3"] == {"reason": "y", "until": "2026-01-02T13:00:00+00:00", "run": "b"}


def test_without_a_file_no_node_is_avoided(tmp_path: Path) -> None:
    assert load_excluded(tmp_path) == []
    assert load_excluded(tmp_path / "nowhere") == []


@pytest.mark.parametrize("text", ["", "[]", '{"n1": 3}', '{"n1": {"until": "soon"}}'])
def test_a_damaged_file_is_reported_and_avoids_no_node(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "excluded-nodes.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert load_excluded(tmp_path) == []
    assert "excluded-nodes.json cannot be read" in caplog.text
    remember_excluded(tmp_path, ["n1"], reason="x", run="a")
    assert [each.node for each in load_excluded(tmp_path)] == ["n1"]


def _remember(folder: str, first: int) -> None:
    for number in range(first, first + 5):
        remember_excluded(Path(folder), [f"n{number}"], reason="x", run="a")


def test_no_node_is_forgotten_when_several_runs_remember_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_remember, args=(str(tmp_path), 10 * index)) for index in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(load_excluded(tmp_path)) == 15
