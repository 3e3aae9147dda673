"""Whether wandb can upload from here: its key, its server, and whether that answers."""

import netrc
import ssl
import threading
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from bigtrain.environment import netrc_file

PROBE_SECONDS = 3.0
"""How long the server may take to answer, including DNS and proxies."""
NO_KEY = "there is no API key"


def choose_mode(requested: str, settings: Any) -> tuple[str, str | None]:
    """Chooses ``online`` or ``offline``; ``auto`` is online only with a key.

    Args:
        requested: ``auto``, ``online`` or ``offline``.
        settings: wandb's settings.

    Returns:
        The mode, and why it is offline if that was not requested.
    """
    if requested == "offline":
        return "offline", None
    if requested == "auto" and not _has_key(settings):
        return "offline", NO_KEY
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
