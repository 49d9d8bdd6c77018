"""Spans, by the real SDK's in-memory exporter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmfeatures import Project
from llmfeatures.errors import ConfigError
from llmfeatures.service import create_app, traces
from llmfeatures.service.log import RequestLog
from tests.service.world import served

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def exporter() -> Iterator[InMemorySpanExporter]:
    """The provider of this process, which can be set once."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    before = trace._TRACER_PROVIDER
    trace._TRACER_PROVIDER = provider
    yield found
    trace._TRACER_PROVIDER = before


@asynccontextmanager
async def asking(world: Path, *middleware: type[Any]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application in this process."""
    app = create_app(Project.load(world), log=RequestLog("off"))
    for one in middleware:
        app.add_middleware(one)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
    ):
        yield client


async def asked(world: Path, path: str, body: object, headers: dict[str, str] | None = None) -> httpx.Response:
    """The answer to one request."""
    async with asking(world) as client:
        return await client.post(path, json=body, headers=headers)


def spans(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, ...]:
    found = exporter.get_finished_spans()
    exporter.clear()
    return found


async def test_a_request_and_its_build_are_spans_of_the_callers_trace(
    world: Path, exporter: InMemorySpanExporter
) -> None:
    exporter.clear()
    answer = await asked(world, "/v1/prompts/home/context", {"user_id": "8a2f"}, {"traceparent": PARENT})
    build, request = spans(exporter)
    assert request.name == "POST /v1/prompts/{name}/context"
    assert request.kind is SpanKind.SERVER
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/prompts/{name}/context",
        "url.scheme": "http",
        "http.response.status_code": 200,
    }
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    assert f"{request.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert build.name == "build_context home"
    assert build.parent is not None
    assert build.parent.span_id == request.context.span_id
    ctx = answer.json()
    assert build.attributes == {
        "gen_ai.prompt.name": "home",
        "llmfeatures.prompt.version": ctx["version"],
        "llmfeatures.prompt_id": ctx["prompt_id"],
        "llmfeatures.request_id": ctx["request_id"],
        "llmfeatures.source": "online",
        "llmfeatures.degraded": False,
        "llmfeatures.contexts": 1,
    }
    assert "drama" not in str([span.to_json() for span in (build, request)])


async def test_errors_and_batches(world: Path, exporter: InMemorySpanExporter) -> None:
    exporter.clear()
    await asked(world, "/v1/prompts/strict/context", {"user_id": "b13c"})
    build, request = spans(exporter)
    assert build.status.status_code is StatusCode.ERROR
    assert request.attributes is not None
    assert request.attributes["error.type"] == "feature_not_present"
    assert request.status.status_code is StatusCode.UNSET  # a 4xx is the caller's
    assert request.parent is None
    await asked(world, "/v1/prompts/home/contexts", {"rows": [{"user_id": "8a2f"}, {"user_id": "b13c"}]})
    build, request = spans(exporter)
    assert build.attributes is not None
    assert build.attributes["llmfeatures.contexts"] == 2
    await asked(world, "/v1/features", {"features": ["genre"], "rows": []})
    (request,) = spans(exporter)
    assert request.name == "POST /v1/features"


LEAKS = [
    ("GET", "/v1/users/LEAK1", "GET unmatched"),
    ("GET", "/LEAK2?user_id=LEAK3", "GET unmatched"),
    ("LEAK4", "/v1/users/LEAK5", "HTTP unmatched"),
    ("GET", "/v1/features?user_id=LEAK6", "GET /v1/features"),
    ("LEAK7", "/v1/features?user_id=LEAK8", "HTTP /v1/features"),
    ("POST", "/v1/features?user_id=LEAK9", "POST /v1/features"),
    ("GET", "/v1/prompts/home/context?user_id=LEAK10", "GET /v1/prompts/{name}/context"),
    ("GET", "/v1/prompts/LEAK11/context", "GET /v1/prompts/{name}/{kind}"),
    ("POST", "/v1/prompts/LEAK12/contexts?user_id=LEAK13", "POST /v1/prompts/{name}/{kind}"),
    ("POST", "/v1/prompts/LEAK14/LEAK15", "POST unmatched"),
    ("POST", "/v1/prompts/home/context?user_id=LEAK16", "POST /v1/prompts/{name}/context"),
    ("POST", "/v1/push/LEAK17?user_id=LEAK18", "POST /v1/push/{view}"),
    ("POST", "/v1/push/seats?user_id=LEAK19", "POST /v1/push/{view}"),
    ("PUT", "/v1/push/taste?user_id=LEAK20", "PUT /v1/push/{view}"),
    ("HEAD", "/health/live?user_id=LEAK21", "HEAD /health/live"),
]
"""Requests with a planted value, and the span of each."""


class Passing:
    """A middleware, with which requests take the way through FastAPI's own."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@pytest.mark.parametrize("middleware", [(), (Passing,)])
async def test_no_path_query_or_key_is_in_a_span_and_a_request_has_one(
    world: Path, exporter: InMemorySpanExporter, middleware: tuple[type[Any], ...]
) -> None:
    exporter.clear()
    async with asking(world, *middleware) as client:
        for method, path, name in LEAKS:
            answer = await client.request(method, path, json={"user_id": "LEAK22"}, headers={"traceparent": PARENT})
            (request,) = found = spans(exporter)
            assert (request.name, request.kind) == (name, SpanKind.SERVER), path
            assert request.attributes is not None
            assert request.attributes["http.route"] == name.partition(" ")[2]
            assert request.attributes["http.response.status_code"] == answer.status_code
            assert ("error.type" in request.attributes) == (answer.status_code >= 400)
            assert f"{request.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
            assert "LEAK" not in str([span.to_json() for span in found]), path
        for path in ("/v1/prompts/home/context", "/v1/prompts/strict/context"):
            await client.post(path, json={"user_id": "LEAK23"})
            found = spans(exporter)
            assert [span.kind for span in found] == [SpanKind.INTERNAL, SpanKind.SERVER]
            assert "LEAK" not in str([span.to_json() for span in found]), path


def test_serve_exports_to_what_the_environment_names(world: Path) -> None:
    with served(world, environment={"OTEL_TRACES_EXPORTER": "console"}) as running:
        running.context("home", user_id="8a2f")
        trace_id = running.lines()[-1]["trace_id"]
        for method, path, _ in LEAKS:
            running.client.request(method, path, json={"user_id": "LEAK24"})
        assert all("trace_id" in line for line in running.lines())
    text = running.log.read_text()
    assert '"name": "GET unmatched"' in text
    assert "LEAK" not in text
    assert '"name": "build_context home"' in text
    assert f'"trace_id": "0x{trace_id}"' in text
    assert "drama" not in text


def test_an_exporter_that_is_not_installed(world: Path) -> None:
    script = "from llmfeatures.service.traces import export_traces\nexport_traces('carrier_pigeon')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "no exporter 'carrier_pigeon'" in done.stderr
    assert ConfigError.__name__ in done.stderr


def test_without_a_provider_there_is_no_tracer() -> None:
    script = "from llmfeatures.service import traces\nassert traces.current_tracer() is None\n"
    script += "assert not traces.export_traces()"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert traces.NAME == "llmfeatures"
