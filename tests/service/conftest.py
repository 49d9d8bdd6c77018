"""A service that many tests ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmfeatures import ContextBuilder, Project
from tests.service.world import Running, make_world, served


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Path:
    """The project, its features in a real Redis."""
    return make_world(tmp_path_factory.mktemp("world"), redis_url)


@pytest.fixture(scope="session")
def project(world: Path) -> Iterator[Project]:
    """The same project in this process."""
    found = Project.load(world)
    yield found
    found.close()


@pytest.fixture(scope="session")
def builder(world: Path) -> Iterator[ContextBuilder]:
    """And a builder of its prompts."""
    found = ContextBuilder.from_project(world)
    yield found
    found.close()


@pytest.fixture(scope="session")
def running(world: Path) -> Iterator[Running]:
    """Its service, one process."""
    with served(world) as found:
        yield found
