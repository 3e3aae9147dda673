"""`transformers serve` serves an export, and answers with the texts of `bigtrain generate`."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bigtrain.convert.serve_commands import plan_servers
from launcher.ports import find_free_port
from tests.distributed.generation_calls import VARIED, call
from tests.ranks import run_ranks
from tests.runs import LLAMA, bert_config, tiny_config, train_rank

pytestmark = pytest.mark.slow

SERVING = ("fastapi", "uvicorn", "openai")
SECONDS = 240


@pytest.fixture(scope="module", params=[{}, LLAMA], ids=["gpt2", "llama"])
def exported(request: Any, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The export of a short run, and what `export-hf` printed."""
    folder = tmp_path_factory.mktemp("runs")
    config = tiny_config(corpus, folder, model={**request.param, **VARIED}, train={"steps": 12})
    run_ranks(train_rank, 1, config)
    out = folder / "exported"
    [(code, printed, err)] = run_ranks(call, 1, ["export-hf", config.run_dir, out])[0]
    assert code == 0, err
    return out, printed


@contextmanager
def served(command: list[str]) -> Iterator[str]:
    """Runs the command that `export-hf` printed, on a free port; gives the address."""
    if missing := [name for name in SERVING if find_spec(name) is None]:
        pytest.skip(f"`transformers serve` needs {missing}: pip install 'bigtrain[serve]'")
    port = find_free_port()
    program = Path(sys.executable).parent / command[0]
    start = [str(program)] if program.is_file() else [sys.executable, "-m", _MODULE]
    server = subprocess.Popen(
        [*start, *command[1:], "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + SECONDS
        while not _answers(f"{address}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                pytest.fail(f"the server did not start: {server.communicate()[0][-3000:]}")
            time.sleep(0.3)
        yield address
    finally:
        server.kill()
        server.communicate()


_MODULE = "transformers.cli.transformers"


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def complete(address: str, body: dict[str, Any]) -> dict[str, Any]:
    """The request that OpenAI's client sends for `client.completions.create(...)`."""
    request = urllib.request.Request(
        f"{address}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer none"},
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def test_a_server_gives_the_completions_of_generate(exported: Any) -> None:
    folder, printed = exported
    command = next(server for server in plan_servers(folder) if server.name == "transformers")
    assert f"  {' '.join(command.commands[0])}\n" in printed
    prompts, short = ["abc", "abc def ghi jkl"], ["--max-new-tokens", "8", "--json"]
    with served([*command.commands[0]]) as address:
        answers = [
            complete(
                address,
                {"model": str(folder), "prompt": each, "max_tokens": 8, "temperature": 0},
            )
            for each in prompts
        ]
    [(code, lines, err)] = run_ranks(call, 1, ["generate", folder, *prompts, *short])[0]
    assert code == 0, err
    expected = [json.loads(line) for line in lines.splitlines()]
    assert [each["choices"][0]["text"] for each in answers] == [each["text"] for each in expected]
    assert all(each["text"] for each in expected)
    assert [each["usage"]["prompt_tokens"] for each in answers] == [
        each["prompt_tokens"] for each in expected
    ]


def test_no_server_is_named_for_a_bert(pair_corpus: Path, tmp_path: Path) -> None:
    config = bert_config(pair_corpus, tmp_path, train={"steps": 4})
    run_ranks(train_rank, 1, config)
    [(code, printed, _)] = run_ranks(call, 1, ["export-hf", config.run_dir, tmp_path / "out"])[0]
    assert code == 0
    assert printed.splitlines()[-1] == (
        "not served by vLLM or transformers or llama.cpp: a MegatronBertForPreTraining does not "
        "continue texts"
    )
