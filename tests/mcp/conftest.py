"""The project that is served, and sessions of it in this process, by the official client."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from llmfeatures import ContextBuilder, Project
from llmfeatures.mcp.binding import binding_of
from llmfeatures.mcp.offer import Offer
from llmfeatures.mcp.server import Session, make_server
from llmfeatures.service.keys import ApiKey
from llmfeatures.service.log import RequestLog
from tests.mcp.world import make_world


class Log(RequestLog):
    """A log that can be read."""

    def __init__(self) -> None:
        self.written = io.StringIO()
        super().__init__("json", self.written)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Its lines of one kind."""
        self.flush()
        found = [json.loads(line) for line in self.written.getvalue().splitlines()]
        return [line for line in found if line["event"] == event]


Connect = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's folder, filled."""
    return make_world(tmp_path_factory.mktemp("mcp"))


@pytest.fixture(scope="session")
def project(world: Path) -> Iterator[Project]:
    """The project in this process."""
    found = Project.load(world)
    yield found
    found.close()


@pytest.fixture(scope="session")
def builder(project: Project) -> ContextBuilder:
    """A builder of its prompts."""
    return project.builder()


@pytest.fixture
def log() -> Log:
    """What the server of `connect` logs."""
    return Log()


@pytest.fixture
def connect(project: Project, log: Log) -> Connect:
    """Opens a session: ``async with connect("user_id=8a2f") as client``; ``key`` is the API key that it has."""

    @asynccontextmanager
    async def opened(
        *bind: str, any_: tuple[str, ...] = (), key: ApiKey | None = None, mode: str = "auto"
    ) -> AsyncGenerator[Client]:
        builder = project.async_builder()
        binding = binding_of(project.registry, bind, any_).of_key(key, project.registry)

        def session(_: Any) -> Session:
            return Session(Offer("agents", builder, binding, key), None if key is None else key.id)

        async with Client(make_server("agents", session, log), mode=mode) as client:
            yield client
        await builder.aclose()

    return opened


def api_key(*scopes: str, **entity: str | None) -> ApiKey:
    """An API key as it is kept."""
    return ApiKey(id="k1", name="x", sha256="", scopes=scopes, created="", entity=entity or None)
