"""The batch scripts of the installed profiles. Run as a program, it writes them anew."""

from pathlib import Path

from bigtrain.config import load_config
from bigtrain.config.cluster import ClusterConfig
from launcher.slurm.script import render_batch_script

GOLDEN = Path(__file__).parent / "golden"
PROFILES = Path(__file__).parents[3] / "configs" / "cluster"
NAMES = sorted(file.stem for file in PROFILES.glob("slurm-*.yaml"))


def render_golden(name: str) -> str:
    """The batch script of a profile for a fixed run."""
    cluster = load_config([str(PROFILES / f"{name}.yaml")], ClusterConfig)
    return render_batch_script(
        cluster,
        name="llama-8b",
        run_dir=Path("/shared/runs/llama-8b"),
        nodes=1 if name == "slurm-single-node" else 4,
        python="/shared/env/bin/python",
        work_dir=Path("/shared/work"),
        excluded=["node047"] if name == "slurm-chain" else [],
    )


if __name__ == "__main__":
    for name in NAMES:
        (GOLDEN / f"{name}.sh").write_text(render_golden(name), encoding="utf-8")
