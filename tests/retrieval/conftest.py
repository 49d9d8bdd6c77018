"""Fixtures that the tests of retrieval share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL with pgvector, started for this session."""
    from tests.servers import postgres_server

    with postgres_server() as url:
        yield url
