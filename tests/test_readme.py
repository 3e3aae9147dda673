"""Runs the commands of the README in their order, as a new user would."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def console_commands(markdown: str) -> list[str]:
    """The lines that start with ``$`` in blocks marked ``console``."""
    blocks = re.findall(r"```console\n(.*?)```", markdown, flags=re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_every_command_of_the_readme_succeeds(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    library = Path(sysconfig.get_paths()["stdlib"])
    for source in sorted(library.glob("*.py"))[:80]:
        (texts / f"{source.stem}.txt").write_bytes(source.read_bytes())
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "",
    }
    commands = console_commands((REPOSITORY / "README.md").read_text())
    assert [command.split()[1] for command in commands].count("data") == 6
    outputs: dict[str, list[str]] = {}
    for command in commands:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        outputs.setdefault(command.split()[1], []).append(done.stdout)
    assert "bigram baseline" in outputs["report"][0]
    assert "bits/byte" in outputs["evaluate"][0]
    assert "largest logit difference" in outputs["export-hf"][0]
    exported, checkpoint = outputs["generate"]
    assert exported == checkpoint
    assert exported.startswith("import os")
    assert re.search(r"tensor=2 sequence=true +2 .* same$", outputs["parity"][0], re.MULTILINE)
    assert (tmp_path / "exports/first/model.safetensors").is_file()
    cleaned, verified, which = outputs["data"][3:]
    assert "kept" in cleaned
    assert "1 of 1 shards intact at level full" in verified
    assert "sample 16: corpora/mine/train, epoch 1" in which


def test_no_readme_contains_a_placeholder() -> None:
    pages = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("*/README.md")]
    assert len(pages) > 5
    left = [page.name for page in pages if re.search(r"^@\w+@$", page.read_text(), re.MULTILINE)]
    assert not left
