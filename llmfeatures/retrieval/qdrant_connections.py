"""Clients of Qdrant, and its errors as ours."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from llmfeatures.errors import ConfigError, LLMFeaturesError, RetrieverError, RetrieverUnavailableError
from llmfeatures.retrieval import wire

KEY: Final = "QDRANT_API_KEY"
_PORT: Final = 6333
_LIMITS: Final = httpx.Limits(max_connections=64, max_keepalive_connections=32)
_PARTS: Final = ("connect", "read", "write", "pool")


def address(url: str) -> str:
    """The HTTP address of ``qdrant://HOST:PORT`` or ``qdrants://HOST:PORT/PREFIX``.

    Raises:
        ConfigError: it is no such URL, or holds a key.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    else:
        if parts.username is not None or parts.password is not None or parts.query:
            raise ConfigError(f"[retrieval] url: the key of Qdrant belongs into {KEY}, not into the URL")
        if parts.scheme in ("qdrant", "qdrants") and host:
            shown = f"[{host}]" if ":" in host else host
            prefix = parts.path.rstrip("/")
            return f"{'https' if parts.scheme == 'qdrants' else 'http'}://{shown}:{port or _PORT}{prefix}"
    raise ConfigError(
        "[retrieval] url is no URL of Qdrant; write qdrant://HOST:PORT, qdrants://HOST:PORT for TLS, or qdrant:PATH"
    )


class Deadlines(threading.local):
    """Until when the calls of this thread may last (`time.monotonic`); None: for ever."""

    deadline: float | None = None


def client(url: str, key: str | None, deadlines: Deadlines, retriever: str) -> QdrantClient:
    """A client whose requests end at the deadline of their thread."""

    def middleware(request: httpx.Request, call_next: Any) -> Any:
        until = deadlines.deadline
        seconds = None if until is None else wire.left(until, retriever)
        request.extensions["timeout"] = dict.fromkeys(_PARTS, seconds)
        return call_next(request)

    made = QdrantClient(**_options(url, key))
    made.http.client.add_middleware(middleware)
    return made


def async_client(url: str, key: str | None) -> AsyncQdrantClient:
    """A client for asyncio, which waits for ever: who calls it has a deadline."""

    async def middleware(request: httpx.Request, call_next: Any) -> Any:
        request.extensions["timeout"] = dict.fromkeys(_PARTS, None)
        return await call_next(request)

    made = AsyncQdrantClient(**_options(url, key))
    made.http.client.add_middleware(middleware)
    return made


def _options(url: str, key: str | None) -> dict[str, Any]:
    # as a header: given as the key, it warns of plain HTTP, which the user chose
    headers = {} if key is None else {"api-key": key}
    return {"url": url, "headers": headers, "check_compatibility": False, "limits": _LIMITS, "trust_env": False}


class Local:
    """The client of a folder, which stores of this process share: it can be opened once only. It is no server: for
    tests and small things."""

    _open: Final[dict[Path, Local]] = {}
    _lock = threading.Lock()

    def __init__(self, folder: Path) -> None:
        self.folder, self.users, self.process = folder, 0, os.getpid()
        self.lock = threading.RLock()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that payload indexes have no effect, and that it is slow beyond 20,000
            self.client = QdrantClient(path=str(folder), force_disable_check_same_thread=True)

    @classmethod
    def of(cls, folder: Path) -> Local:
        """The client of a folder, which its user gives back with `leave`."""
        with cls._lock:
            folder = folder.absolute()
            found = cls._open.get(folder)
            if found is None:
                found = cls._open[folder] = cls(folder)
            found.users += 1
            return found

    def leave(self) -> None:
        """Give it back; the last user closes it. In a forked child it stays: it is the parent's."""
        with self._lock:
            self.users -= 1
            if self.users == 0 and self.process == os.getpid():
                del self._open[self.folder]
                self.client.close()

    @contextmanager
    def alone(self) -> Generator[QdrantClient]:
        """The client, for this thread."""
        with self.lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield self.client

    @classmethod
    def forked(cls) -> None:
        """Locks that another thread of the parent held would never be free here."""
        cls._lock = threading.Lock()
        for one in cls._open.values():
            one.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Local.forked)


def translated(retriever: str, error: Exception) -> LLMFeaturesError:
    """What an error of the client means. What Qdrant says of a request is left out: it may quote it."""
    name = f"retriever {retriever!r}"
    if isinstance(error, ResponseHandlingException):
        return _unsent(retriever, error.source)
    if isinstance(error, UnexpectedResponse):
        return _refused(retriever, error.status_code or 0)
    if isinstance(error, ApiException):
        return RetrieverUnavailableError(f"{name}: Qdrant cannot answer now ({type(error).__name__})")
    if isinstance(error, ValueError) and "not found" in str(error):
        return wire.never_filled(retriever)
    if isinstance(error, RuntimeError):
        return RetrieverUnavailableError(f"{name}: its folder is open in another process; use a server of Qdrant")
    return RetrieverError(f"{name}: Qdrant's client failed with {type(error).__name__}")


def _refused(retriever: str, code: int) -> LLMFeaturesError:
    name = f"retriever {retriever!r}"
    if code == 404:
        return wire.never_filled(retriever)
    if code in (401, 403):
        return RetrieverUnavailableError(f"{name}: Qdrant does not take the key ({code}); set {KEY}")
    if code == 408:
        return wire.late(retriever)
    if code == 429 or code >= 500:
        return RetrieverUnavailableError(f"{name}: Qdrant cannot answer now ({code})")
    return RetrieverError(f"{name}: Qdrant refused the request ({code})")


def _unsent(retriever: str, source: Exception) -> LLMFeaturesError:
    if isinstance(source, LLMFeaturesError):
        return source
    if isinstance(source, httpx.TimeoutException):
        return wire.late(retriever)
    if isinstance(source, httpx.TransportError):
        return RetrieverUnavailableError(
            f"retriever {retriever!r}: Qdrant cannot be reached ({type(source).__name__}); is [retrieval] url right?"
        )
    return RetrieverError(
        f"retriever {retriever!r}: Qdrant answered what its client does not know; are their versions far apart?"
    )
