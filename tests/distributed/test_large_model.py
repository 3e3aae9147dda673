"""A model of 1 B parameters is imported and exported with little memory."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

VOCAB_SIZE = 32_000
CONFIG = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
"""Llama 3.2 1B, with a vocabulary of 32,000."""
PARAMETERS = 1_038_682_112
DISK_BYTES = 20e9


def write_folder(folder: Path) -> int:
    """Writes the model with random weights, one tensor at a time; for ``run_ranks``.

    Returns:
        The number of parameters.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from bigtrain.convert.safetensors_writer import write_shards

    config = LlamaConfig(architectures=["LlamaForCausalLM"], **CONFIG)
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(1)
        for name, shape in shapes.items():
            values = torch.empty(shape).normal_(std=0.02, generator=generator)
            yield name, values + 1.0 if "norm" in name else values

    write_shards(folder, shapes, tensors(), dtype=torch.float32, max_shard_bytes=10**9)
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    return sum(p.numel() for p in model.parameters())


def _tokenizer() -> dict[str, Any]:
    """A tokenizer of bytes whose other ids no text uses."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    pieces = ["</s>", *(chr(b if b in printable else next(others)) for b in range(256))]
    pieces += [f"unused{number}" for number in range(VOCAB_SIZE - len(pieces))]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    end = {"id": 0, "content": "</s>", "special": True}
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**end, **dict.fromkeys(flags, False)}],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {piece: number for number, piece in enumerate(pieces)},
            "merges": [],
        },
    }


def peak_bytes(*words: str) -> tuple[int, str]:
    """Runs a command of bigtrain; returns its largest resident memory, and its output."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bigtrain.cli", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output
    return usage.ru_maxrss * 1024, output


def equal_tensors(one: Path, other: Path) -> int:
    """How many tensors of two folders are equal, read one at a time; for ``run_ranks``."""
    import torch

    from bigtrain.convert.their_weights import TheirWeights

    first, second = (TheirWeights(f, architecture="LlamaForCausalLM") for f in (one, other))
    assert set(first.tensors) == set(second.tensors)
    return sum(
        torch.equal(tensor.read().view(torch.int32), second.tensors[name].read().view(torch.int32))
        for name, tensor in first.tensors.items()
    )


@pytest.mark.timeout(1800)
def test_a_model_of_1_b_parameters_needs_less_memory_than_half_of_it(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < DISK_BYTES:
        pytest.skip(f"{tmp_path}: less than {DISK_BYTES / 1e9:.0f} GB of the disk are free")
    theirs, imported, exported = (tmp_path / name for name in ("theirs", "imported", "exported"))
    theirs.mkdir()
    assert run_ranks(write_folder, 1, theirs, timeout=600) == [PARAMETERS]
    half = 4 * PARAMETERS / 2
    try:
        used, output = peak_bytes("import-hf", str(theirs), "--out", str(imported))
        assert "layer by layer" in output
        assert used < half, f"import: {used / 1e9:.2f} GB of {half / 1e9:.2f}"
        sys.stdout.write(f"\nimport: {used / 1e9:.2f} GB resident of {2 * half / 1e9:.2f} GB\n")
        used, output = peak_bytes("export-hf", str(imported), str(exported))
        assert "layer by layer" in output
        assert used < half, f"export: {used / 1e9:.2f} GB of {half / 1e9:.2f}"
        sys.stdout.write(f"export: {used / 1e9:.2f} GB resident of {2 * half / 1e9:.2f} GB\n")
        assert run_ranks(equal_tensors, 1, theirs, exported, timeout=600) == [146]
    finally:
        for folder in (theirs, imported, exported):  # pytest would keep them.
            shutil.rmtree(folder, ignore_errors=True)
