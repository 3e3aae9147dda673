"""A sink whose package is missing is refused before a run starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from bigtrain.config import ConfigError
from bigtrain.track.packages import check_packages
from tests.runs import tiny_config

TRACK = {
    "tensorboard": ({"tensorboard": True}, "tensorboardX"),
    "mlflow": ({"mlflow": "http://host:5000"}, "mlflow"),
}


@pytest.mark.parametrize("extra", TRACK)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track, module = TRACK[extra]
    config = tiny_config(tmp_path, tmp_path, track=track)
    check_packages(config)
    monkeypatch.setattr("bigtrain.track.packages.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        check_packages(config)
    assert f"needs the package {module}" in str(error.value)
    assert f"`pip install 'bigtrain[{extra}]'`" in str(error.value)
    check_packages(tiny_config(tmp_path, tmp_path))


def test_launch_and_train_refuse_it_before_they_read_any_data(tmp_path: Path) -> None:
    hide = "import sys, importlib.util as u; find = u.find_spec\n"
    hide += "u.find_spec = lambda name, *a: None if name == 'mlflow' else find(name, *a)\n"
    for command in ("launch", "train"):
        code = f"{hide}from bigtrain.cli import main\nsys.argv.insert(1, {command!r})\nmain()"
        track = ("track.mlflow=http://host:5000", f"runs_dir={tmp_path}")
        done = subprocess.run(
            [sys.executable, "-c", code, "configs/gpt/tiny.yaml", *track],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert "`pip install 'bigtrain[mlflow]'`" in line
        assert not (tmp_path / "gpt-tiny" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("mlruns", "not a URI: give one such as http://HOST:5000 or file:///shared/mlruns"),
        ("file:mlruns", "not a URI"),
        ("file://mlruns", "it names no absolute path"),
        ("http://", "it names no host"),
        ("https://me:secret@host", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_a_tracking_uri_that_cannot_be_used_is_refused(uri: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"track\.mlflow") as error:
        tiny_config(tmp_path, tmp_path, track={"mlflow": uri})
    assert why in str(error.value)
