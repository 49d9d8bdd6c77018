"""Fixtures that many tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# a shell starts what runs in the background with Ctrl-C ignored, and so would be what the tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# "same": the same examples in each run, so that a change is judged by what it changed; heavy tests look for new ones
settings.register_profile("same", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("new", deadline=None, print_blob=True)
settings.load_profile("new")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis on loopback, started for this session."""
    from tests.servers import redis_server

    with redis_server() as url:
        yield url
