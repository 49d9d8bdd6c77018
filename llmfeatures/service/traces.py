"""OpenTelemetry traces: a span per request and one per build. Without a tracer provider there is none, at no cost.

Attribute names are those of the semantic conventions (HTTP; ``gen_ai.prompt.name`` of the GenAI ones, whose well-known
operations have none for building a prompt); what they have no name for begins with ``llmfeatures.``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from llmfeatures.errors import ConfigError
from llmfeatures.version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from llmfeatures.context import PromptContext
    from llmfeatures.retrieving import TracedLeg

NAME: Final = "llmfeatures"
UNMATCHED: Final = "unmatched"
"""The route of a path that is not there."""
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"))
"""A method is any word that the caller likes; others are ``_OTHER``, as the conventions have it."""
_EXPORTERS: Final = "opentelemetry_traces_exporter"
"""The group of entry points by which OpenTelemetry's exporters are found."""


def current_tracer() -> Tracer | None:
    """A tracer of the provider that this process has set; None when there is none, or no OpenTelemetry."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    return provider.get_tracer(NAME, __version__)


def export_traces(name: str | None = None) -> bool:
    """Set a provider that exports where ``OTEL_TRACES_EXPORTER`` says (``console``, ``otlp``, ...), once per process.

    ``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_TRACES_SAMPLER`` and the exporters' own variables are
    read by OpenTelemetry. Returns whether traces are exported.

    Raises:
        ConfigError: the exporter, or OpenTelemetry's SDK, is not installed.
    """
    wanted = name or os.environ.get("OTEL_TRACES_EXPORTER", "none")
    if wanted in ("", "none") or current_tracer() is not None:
        return current_tracer() is not None
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigError(
            "OTEL_TRACES_EXPORTER is set, and OpenTelemetry is not installed; pip install 'llmfeatures[otel]'"
        ) from None
    found = list(entry_points(group=_EXPORTERS, name=wanted))
    if not found:
        known = ", ".join(sorted({one.name for one in entry_points(group=_EXPORTERS)})) or "none is"
        raise ConfigError(
            f"no exporter {wanted!r} for OTEL_TRACES_EXPORTER is installed ({known}); "
            "for otlp install opentelemetry-exporter-otlp"
        )
    resource = Resource.create() if os.environ.get("OTEL_SERVICE_NAME") else Resource.create({"service.name": NAME})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    trace.set_tracer_provider(provider)
    return True


def flush_traces() -> None:
    """Export what waits, before the process ends."""
    if current_tracer() is not None:
        from opentelemetry import trace

        flush = getattr(trace.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            flush(2_000)


def start_request(tracer: Tracer, method: str, route: str, headers: Sequence[tuple[bytes, bytes]]) -> Span:
    """A server span, child of the caller's when it sent a ``traceparent``. ``route`` is a template: a path or a query
    may hold a join key, and is in no span."""
    from opentelemetry import propagate
    from opentelemetry.trace import SpanKind

    carrier = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers
        if name in (b"traceparent", b"tracestate", b"baggage")
    }
    known = method in _METHODS
    return tracer.start_span(
        f"{method if known else 'HTTP'} {route}",
        context=propagate.extract(carrier) if carrier else None,
        kind=SpanKind.SERVER,
        attributes={
            "http.request.method": method if known else "_OTHER",
            "http.route": route,
            "url.scheme": "http",
        },
    )


def end_request(span: Span, status: int, code: str | None) -> None:
    """The request was answered."""
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("http.response.status_code", status)
    if code is not None:
        span.set_attribute("error.type", code)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def start_build(tracer: Tracer, parent: Span, prompt: str) -> Span:
    """The span of the building of prompts."""
    from opentelemetry import trace

    return tracer.start_span(
        f"build_context {prompt}",
        context=trace.set_span_in_context(parent),
        attributes={"gen_ai.prompt.name": prompt},
    )


def record_legs(tracer: Tracer, parent: Span, legs: Sequence[TracedLeg]) -> None:
    """A span for each part of a prompt with documents that was read. No query and no text is recorded."""
    from opentelemetry import trace
    from opentelemetry.trace import Status, StatusCode

    context = trace.set_span_in_context(parent)
    for leg in legs:
        attributes = {"llmfeatures.leg": leg.name}
        if leg.retriever is not None:
            attributes["llmfeatures.retriever"] = leg.retriever
        kind = "features" if leg.retriever is None else "search"
        span = tracer.start_span(f"{kind} {leg.name}", context=context, start_time=leg.began, attributes=attributes)
        if leg.problem is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(leg.ended)


def end_build(span: Span, contexts: Sequence[PromptContext]) -> None:
    """Prompts were built; none: building failed. No message and no value is recorded."""
    if contexts:
        first = contexts[0]
        attributes: dict[str, Any] = {
            "llmfeatures.prompt.version": first.version,
            "llmfeatures.source": first.manifest.source,
            "llmfeatures.degraded": any(ctx.manifest.degraded for ctx in contexts),
            "llmfeatures.contexts": len(contexts),
        }
        if len(contexts) == 1:
            attributes["llmfeatures.request_id"] = first.request_id
            attributes["llmfeatures.prompt_id"] = first.prompt_id
        span.set_attributes(attributes)
    else:
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR))
    span.end()


def trace_id(span: Span) -> str:
    """The id of the trace that a span is of, in hex, as it stands in ``traceparent``."""
    return f"{span.get_span_context().trace_id:032x}"
