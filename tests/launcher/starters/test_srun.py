"""The step of the agents: srun lasts as long as they need."""

import asyncio
from pathlib import Path

import pytest

from bigtrain.config.cluster import ClusterConfig
from launcher.starters.srun import SrunStarter

# A step whose agents end a second after they lost the supervisor.
SRUN = """#!/bin/bash
trap 'echo terminated > {folder}/end; exit 1' TERM
touch {folder}/begun
for _ in {{1..20}}; do sleep 0.05; done
echo saved > {folder}/end
"""


@pytest.mark.parametrize(("saves", "end"), [(True, "saved"), (False, "terminated")])
def test_srun_lasts_until_the_ranks_have_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: bool, end: str
) -> None:
    monkeypatch.setattr("launcher.starters.srun.END_SECONDS", 0.2)
    srun = tmp_path / "srun"
    srun.write_text(SRUN.format(folder=tmp_path))
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    async def run() -> None:
        cluster = ClusterConfig.model_validate({"gpus_per_node": 1})
        starter = SrunStarter(cluster, ("a",), "python", lambda: ["127.0.0.1"], tmp_path / "x.json")
        await starter.start(port=1, token="token", on_problem=lambda *_: None)
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.01)
        await starter.close(lets_ranks_save=saves)

    asyncio.run(asyncio.wait_for(run(), 30))
    assert (tmp_path / "end").read_text().strip() == end
