"""The process that calls wandb, so that nothing wandb does can affect the training process.

`wandb_sink` starts it and sends JSON messages: the run to open, the numbers of each step, the exit
code. If wandb raises, calls ``sys.exit`` or hangs, only this process is affected.
"""

import json
import netrc
import os
import signal
import ssl
import sys
import threading
import urllib.error
import urllib.request
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bigtrain.environment import netrc_file

PROBE_SECONDS = 3.0
"""How long the server may take to answer, including DNS and proxies."""
ABANDONED_SECONDS = 10.0
"""Time for the upload after the training process has died."""
_MESSAGE_LENGTH = 300


class ConfigurationError(ValueError):
    """The user's settings for wandb cannot be read; the message is one line."""


def main(connection: Connection) -> None:
    """Opens the run that the first message describes, and logs the numbers of the others."""
    # SLURM sends signals to every process of a job. This one must end after the training process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        _serve(connection)
    except BaseException as error:  # wandb may call sys.exit.
        _send(connection, failed=_one_line(error))
        os._exit(1)  # wandb's own exit handlers may hang.


def _serve(connection: Connection) -> None:
    request = json.loads(connection.recv_bytes())
    import wandb

    _send(connection, imported=True)
    try:
        mode, why = _choose_mode(request["mode"], wandb.setup().settings)
    except Exception as error:
        sources = "WANDB_ variables, .netrc, or a settings file"
        raise ConfigurationError(
            f"wandb's configuration ({sources}): {_one_line(error)}"
        ) from error
    _send(connection, mode_chosen=mode)
    run = _open_run(wandb, request, mode)
    _send(connection, mode=mode, why=why, folder=str(Path(run.dir).parent))
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except EOFError:
            threading.Timer(ABANDONED_SECONDS, os._exit, (1,)).start()
            message = {"exit_code": 1}
        if "exit_code" in message:
            run.finish(exit_code=message["exit_code"])
            _send(connection, finished=True)
            os._exit(0)
        run.log(message)


def _open_run(wandb: Any, request: dict[str, Any], mode: str) -> Any:
    run = wandb.init(
        project=request["project"],
        name=request["name"],
        id=request["run_id"],
        resume="allow",
        dir=request["run_dir"],
        mode=mode,
        config=request["config"],
        settings=wandb.Settings(silent=True, console="off"),
    )
    # Offline, wandb counts steps from zero in every attempt, so the x-axis is the training step.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run


def _choose_mode(requested: str, settings: Any) -> tuple[str, str | None]:
    """Chooses ``online`` or ``offline``; ``auto`` is online only with a key.

    Returns:
        The mode, and why it is offline if that was not requested.
    """
    if requested == "offline":
        return "offline", None
    if requested == "auto" and not _has_key(settings):
        return "offline", "there is no API key"
    if not is_reachable(settings.base_url):
        return "offline", f"{settings.base_url} does not answer"
    return "online", None


def _has_key(settings: Any) -> bool:
    # wandb.login finds the key too, but waits for the network and writes files.
    if settings.api_key or settings.identity_token_file:
        return True
    try:
        machines = netrc.netrc(netrc_file()).hosts
    except FileNotFoundError:
        return False
    # wandb also uses the key of its old host for its new host.
    return not machines.keys().isdisjoint({urlsplit(settings.base_url).netloc, "api.wandb.ai"})


def is_reachable(url: str, *, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a wandb server answers within ``seconds``, through the proxy if there is one."""
    answers: list[bool] = []
    # In a thread, because DNS look-ups have no timeout.
    probe = threading.Thread(target=lambda: answers.append(_probe(url, seconds)), daemon=True)
    probe.start()
    probe.join(seconds)
    return answers == [True]


def _probe(url: str, seconds: float) -> bool:
    # Nothing secret is sent, so the certificate need not be verified.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    query = b'{"query": "{ __typename }"}'
    headers = {"Content-Type": "application/json", "User-Agent": "bigtrain"}
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/graphql", query, headers)
        with urllib.request.urlopen(request, timeout=seconds, context=context):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500  # wandb retries these for minutes.
    except Exception:  # DNS, TLS, proxies and HTTP each raise their own exceptions.
        return False


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    errors = getattr(error, "errors", None)  # A pydantic error about wandb's settings.
    if callable(errors):
        text = "; ".join(f"{'.'.join(e['loc'])}={e['input']!r}: {e['msg']}" for e in errors())
    elif not (text and type(error).__module__.startswith(("wandb", __name__))):
        text = f"{type(error).__name__}: {text}"
    return text[:_MESSAGE_LENGTH]


def _send(connection: Connection, **message: Any) -> None:
    try:
        connection.send_bytes(json.dumps(message).encode())
    except OSError:
        os._exit(1)  # The training process has died.


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
