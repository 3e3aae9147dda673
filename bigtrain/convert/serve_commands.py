"""The commands that serve an exported folder: only of servers that support it. No torch.

Which architectures a server supports was read in the sources of vLLM (its model registry) and
llama.cpp (its converter), and neither was run. llama.cpp knows a byte-level tokenizer only if it is
one of those in a list of known tokenizers, so only SentencePiece models are named here.
"""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GENERATORS = {
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen3ForCausalLM",
}
"""The architectures of exports that vLLM and transformers serve."""
_IN_LLAMA_CPP = GENERATORS - {"GPT2LMHeadModel"}
_TRAINED_WITHOUT = ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_space_prefix")
"""What llama.cpp adds to a text with a SentencePiece model, unless it is told not to."""


@dataclass(frozen=True, slots=True)
class Server:
    """One way to serve a folder."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    """To run one after another; none if the server does not support the folder."""
    reason: str = ""
    """Why it does not."""


def plan_servers(folder: Path) -> list[Server]:
    """Finds out which servers support an exported folder.

    Args:
        folder: Has config.json and tokenizer.json.
    """
    architecture = _read(folder / "config.json")["architectures"][0]
    if architecture not in GENERATORS:
        reason = f"a {architecture} does not continue texts"
        return [Server(name, (), reason) for name in ("vLLM", "transformers", "llama.cpp")]
    place = str(folder)
    return [
        Server("vLLM", (("vllm", "serve", place),)),
        Server("transformers", (("transformers", "serve", place),)),
        _llama_cpp(folder, architecture),
    ]


def render_servers(folder: Path) -> Iterator[str]:
    """Renders lines to copy, and a line for each server that does not support the folder."""
    servers = plan_servers(folder)
    if any(server.commands for server in servers):
        yield "serve it with one of:"
    for server in servers:
        yield from (f"  {shlex.join(command)}" for command in server.commands)
    reasons: dict[str, list[str]] = {}
    for server in servers:
        if not server.commands:
            reasons.setdefault(server.reason, []).append(server.name)
    for reason, names in reasons.items():
        yield f"not served by {' or '.join(names)}: {reason}"


def _llama_cpp(folder: Path, architecture: str) -> Server:
    name = "llama.cpp"
    if architecture not in _IN_LLAMA_CPP:
        return Server(name, (), f"its converter takes a {architecture} only with known tokenizers")
    kind = _read(folder / "tokenizer.json").get("model", {}).get("type")
    if not (folder / "tokenizer.model").is_file() or kind != "BPE":
        return Server(name, (), "its converter needs a SentencePiece tokenizer of kind BPE")
    file = f"{folder}.gguf"
    # llama-server would put an eos and a space before each text; training did not.
    changes = [word for key in _TRAINED_WITHOUT for word in ("--override-kv", f"{key}=bool:false")]
    return Server(
        name,
        (
            ("python", "llama.cpp/convert_hf_to_gguf.py", str(folder), "--outfile", file),
            ("llama-server", "--model", file, *changes),
        ),
    )


def _read(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values
