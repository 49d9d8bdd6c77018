"""Spans, by the real SDK's in-memory exporter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


async def asked(world: Path, path: str, body: object, headers: dict[str, str] | None = None) -> httpx.Response:
    """The answer of an application in this process."""
    app = create_app(Project.load(world), log=RequestLog("off"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
    ):
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


def test_serve_exports_to_what_the_environment_names(world: Path) -> None:
    with served(world, environment={"OTEL_TRACES_EXPORTER": "console"}) as running:
        running.context("home", user_id="8a2f")
        trace_id = running.lines()[-1]["trace_id"]
    text = running.log.read_text()
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
