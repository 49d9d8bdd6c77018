"""API keys: made once, kept as hashes in one file, looked up by the id that is part of the key. File format 1.

A key is ``llf_ID_SECRET``. Its secret has 256 random bits, so that nobody can guess it and one SHA-256 is enough to
keep it by: the slow hashes that passwords need would only make each request slow.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

from llmfeatures.clock import iso
from llmfeatures.errors import ConfigError, FormatError, RequestError, UnknownNameError
from llmfeatures.files import replacing, unwritable

FORMAT: Final = 1
PREFIX: Final = "llf"
SCOPES: Final = ("read", "metrics", "prompts:NAME", "push:VIEW")
_SCOPE = re.compile(r"read|metrics|(prompts|push):(\*|[^\s*]+)")
_PLAIN = re.compile(r'(?!\*\Z)[^\s,"]+')
_LOOK_EVERY = 1.0
"""Seconds from one look at the file to the next: a key that was taken back works no longer than this."""
_NOBODY: Final = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it is kept. ``entity`` bounds it to one entity: join key to value as text, None for any value."""

    id: str
    name: str
    sha256: str
    scopes: tuple[str, ...]
    created: str
    entity: Mapping[str, str | None] | None = None

    @property
    def bound_to(self) -> list[str] | None:
        """The entity that it is bound to, for people: ``user_id=8a2f``, ``user_id=*`` for any value. A value that could
        be taken for something else is in JSON's quotes. None when it is bound to none."""
        if self.entity is None:
            return None
        return [f"{name}={'*' if value is None else _shown(value)}" for name, value in self.entity.items()]

    def allows(self, scope: str) -> bool:
        """Whether the key has this scope: ``read``, ``metrics``, ``prompts:NAME`` or ``push:VIEW``."""
        kind, colon, _ = scope.partition(":")
        return scope in self.scopes or (bool(colon) and f"{kind}:*" in self.scopes)


class KeyFile:
    """The keys of a project in one file, which only its owner may read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keys(self) -> dict[str, ApiKey]:
        """The keys by id; none when there is no file.

        Raises:
            FormatError: the file was written by another version of the format.
            ConfigError: it cannot be read.
        """
        try:
            data: Any = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
            raise ConfigError(f"the key file {self.path} cannot be read: {reason}") from None
        kept = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        found = kept.get("format")
        if found != FORMAT:
            raise FormatError(
                f"the key file {self.path} has format {found}, this version reads {FORMAT}; upgrade llmfeatures"
            )
        try:
            keys = [_key(one) for one in kept["keys"]]
        except (TypeError, KeyError):
            raise ConfigError(f"the key file {self.path} is damaged; restore it, or make new keys") from None
        return {key.id: key for key in keys}

    def add(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        now: datetime,
        entity: Mapping[str, str | None] | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key. Returns how it is kept, and the key itself, which is kept nowhere.

        Raises:
            RequestError: a scope is none, there is none, or the file cannot be written.
        """
        wanted = tuple(dict.fromkeys(scopes))
        for scope in wanted or ("",):
            if not _SCOPE.fullmatch(scope):
                raise RequestError(
                    f"a scope is one of {', '.join(SCOPES)} (or prompts:* and push:*), not {scope!r}; give --scope"
                )
        identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        key = ApiKey(
            id=identity,
            name=name,
            sha256=_hash(secret),
            scopes=wanted,
            created=iso(now.replace(microsecond=0)),
            entity=dict(entity) if entity else None,
        )
        with self._alone():
            self._write([*self.keys().values(), key])
        return key, f"{PREFIX}_{identity}_{secret}"

    def remove(self, identity: str) -> ApiKey:
        """Take a key back.

        Raises:
            UnknownNameError: there is no key of this id.
            RequestError: the file cannot be written.
        """
        with self._alone():
            keys = self.keys()
            if identity not in keys:
                raise UnknownNameError("key", identity, keys)
            gone = keys.pop(identity)
            self._write(keys.values())
        return gone

    @contextmanager
    def _alone(self) -> Generator[None]:
        """While no other process changes the file, where the system has file locks. The lock is a file of its own, as
        the keys' is replaced."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"keys cannot be kept in {self.path.parent}: {error.strerror}") from None
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise unwritable(lock, error) from None
        try:
            _lock(handle, lock)
            yield
        finally:
            os.close(handle)

    def _write(self, keys: Iterable[ApiKey]) -> None:
        text = json.dumps({"format": FORMAT, "keys": [asdict(key) for key in keys]}, indent=1)
        with replacing(self.path, mode=0o600) as part:
            part.write_text(text + "\n", encoding="utf-8")


class KeyRing:
    """The keys that a running service knows. Looks at the file again when it changed, once a second at most.

    Once keys are needed they stay needed: without its file, or with a damaged one, the service lets nobody in.
    """

    def __init__(self, file: KeyFile, *, needed: bool = False) -> None:
        self._file = file
        self._keys = file.keys()
        self._needed = needed or bool(self._keys)
        self._seen = self._mark()
        self._look_at = time.monotonic() + _LOOK_EVERY

    @property
    def needed(self) -> bool:
        """Whether a request needs a key."""
        if time.monotonic() >= self._look_at:
            self._look()
        return self._needed

    def find(self, token: str) -> ApiKey | None:
        """The key that somebody shows, when it is one of these. Takes the same time for a wrong secret as for none."""
        prefix, _, rest = token.partition("_")
        identity, _, secret = rest.partition("_")
        key = self._keys.get(identity)
        same = hmac.compare_digest(_hash(secret), _NOBODY if key is None else key.sha256)
        return key if same and prefix == PREFIX else None

    def _look(self) -> None:
        self._look_at = time.monotonic() + _LOOK_EVERY
        seen = self._mark()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = self._file.keys()
        except (ConfigError, FormatError):
            self._keys, self._needed = {}, True
        self._needed = self._needed or bool(self._keys)

    def _mark(self) -> tuple[int, int, int]:
        try:
            status = self._file.path.stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_size, status.st_ino)


def _key(kept: dict[str, Any]) -> ApiKey:
    fields: dict[str, Any] = {**kept, "scopes": tuple(kept["scopes"])}
    return ApiKey(**fields)


def _shown(value: str) -> str:
    printable = value.isprintable()
    return value if printable and _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=not printable)


def _lock(handle: int, path: Path) -> None:
    try:
        import fcntl  # not on Windows
    except ImportError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        raise RequestError(f"{path} cannot be locked here; give [serve] keys a place on a local disk") from None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
