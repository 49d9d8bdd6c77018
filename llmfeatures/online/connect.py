"""How a connection to a Redis server begins, all of it before one deadline: redis-py gives the whole timeout to every
address of a host, to every reply of the login, and to every byte of a reply."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import hiredis
from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.credentials import UsernamePasswordCredentialProvider

# hiredis declares its parameters more narrowly than they are.
_pack: Callable[[tuple[str, ...]], bytes] = cast("Any", hiredis).pack_command


class Timed:
    """Mixed into a connection of redis-py: what it waits for ends at ``deadline``, and it does not log in."""

    deadline = 0.0
    redis_connect_func = property(lambda _: _nothing, lambda _, __: None)
    socket_timeout = socket_connect_timeout = property(lambda self: left(self.deadline), lambda _, __: None)


def timed(kind: type[AbstractConnection], settings: Mapping[str, Any]) -> type[AbstractConnection]:
    """The kind of connection to make. One that does something of its own when it connects stays as it is."""
    if kind not in (Connection, SSLConnection, UnixDomainSocketConnection) or settings.get("redis_connect_func"):
        return kind
    return cast("type[AbstractConnection]", type(kind.__name__, (Timed, kind), {}))


def login(connection: AbstractConnection) -> list[bytes]:
    """What a new connection says first, packed; if there is an ``AUTH``, that is the first."""
    provider = connection.credential_provider
    if provider is None and (connection.username or connection.password):
        provider = UsernamePasswordCredentialProvider(connection.username, connection.password)
    commands: list[tuple[str, ...]] = [] if provider is None else [("AUTH", *provider.get_credentials())]
    if connection.client_name:
        commands.append(("CLIENT", "SETNAME", connection.client_name))
    if connection.db:
        commands.append(("SELECT", str(connection.db)))
    return [_pack(command) for command in commands]


def left(deadline: float) -> float:
    """Seconds until a deadline (`time.monotonic`).

    Raises:
        TimeoutError: it has passed.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _nothing(_: object) -> None:
    pass
