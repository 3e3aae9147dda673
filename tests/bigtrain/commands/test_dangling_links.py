"""Every command reports a dangling link as such."""

import sys
from pathlib import Path

import pytest

from bigtrain import cli
from bigtrain.config import render_config
from tests.runs import tiny_config


def _run(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> tuple[object, str]:
    monkeypatch.setattr(sys, "argv", ["bigtrain", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["report", "PLACE"],
        ["rewind", "PLACE", "--to", "0"],
        ["data", "which", "--run", "PLACE", "--step", "1"],
        ["checkpoint", "list", "PLACE"],
        ["checkpoint", "verify", "PLACE"],
        ["checkpoint", "info", "PLACE"],
        ["checkpoint", "prune", "PLACE", "--keep-last", "1"],
        ["export-hf", "PLACE", "out"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("place", ["runs/tiny", "runs"])
def test_a_dangling_link_in_place_of_a_run_folder_is_named(
    command: list[str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).symlink_to("/mnt/not-mounted")
    words = ["runs/tiny" if word == "PLACE" else word for word in command]
    exit_code, line = _run(words, monkeypatch, capsys)
    assert exit_code == 2
    assert line.startswith(f"bigtrain: {place}: a link to /mnt/not-mounted, which is not there")
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("place", ["runs/tiny", "runs", "kept"])
def test_launch_names_a_dangling_link_before_it_starts_a_rank(
    place: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).symlink_to("gone")
    config = tiny_config(corpus, Path("runs"), checkpoint={"dir": "kept"})
    Path("run.yaml").write_text(render_config(config))
    exit_code, line = _run(["launch", "run.yaml"], monkeypatch, capsys)
    assert exit_code == 2
    assert line.startswith(f"bigtrain: {place}: a link to gone, which is not there")
