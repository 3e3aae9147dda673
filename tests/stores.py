"""An S3 server on this machine, and a file system whose requests fail."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

BUCKET = "bucket"


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Starts moto's S3 server with an empty bucket; yields the environment variables to reach it.

    Skips the test where moto or s3fs is not installed.
    """
    for package in ("moto", "flask", "s3fs"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: S3 is not tested")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    # Cached connections lead to the server of an earlier test.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        _wait_for(port)
        with use_environment(environment):
            s3_client().mkdir(BUCKET)
        yield environment
    finally:
        server.kill()
        server.wait()


def s3_client() -> Any:
    """An independent connection to the store, which shares no cache with bigtrain's."""
    return fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)


@contextmanager
def use_environment(environment: dict[str, str]) -> Iterator[None]:
    """Sets environment variables inside a ``with`` block."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class StoreDown(Exception):
    """An error like botocore's: not an OSError, and it cannot be pickled."""

    def __init__(self, message: str, response: dict[str, str]) -> None:
        super().__init__(message)
        self.response = response


class FaultyStore(LocalFileSystem):
    """``faulty://``: the local disk, but operations on paths with ``unreachable`` in them fail."""

    protocol = "faulty"

    def _fail(self, path: Any) -> None:
        if "unreachable" in str(path):
            raise StoreDown("the store\nis down", {})

    def ls(self, path: Any, *args: Any, **options: Any) -> Any:
        self._fail(path)
        return super().ls(path, *args, **options)

    def info(self, path: Any, **options: Any) -> Any:
        self._fail(path)
        return super().info(path, **options)

    def open(self, path: str, *args: Any, **options: Any) -> Any:
        self._fail(path)
        return super().open(path, *args, **options)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._fail(path)
        super().makedirs(path, exist_ok)

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        text = path.removeprefix("faulty://") if isinstance(path, str) else path
        return super()._strip_protocol(text)


fsspec.register_implementation("faulty", FaultyStore, clobber=True)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("moto's server did not answer within a minute")
