"""Small texts, and a function to compare folders."""

import random
from pathlib import Path

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "dogs", "over", "hills"]


def write_texts(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Writes `count` small, different documents."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        words = rng.choices(WORDS, k=rng.randint(5, 60))
        text = f"Story {number}\n\n" + " ".join(words) + ".\n"
        (folder / f"{number:04d}.txt").write_text(text, encoding="utf-8")
    return folder


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """The content of every file in a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
