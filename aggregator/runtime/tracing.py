"""Spans for OpenTelemetry, sent if OTEL_EXPORTER_OTLP_ENDPOINT names a collector.

Without a collector no package of OpenTelemetry is imported, and `span` returns one object that does
nothing. A background thread sends the spans; a collector that is down costs the spans that wait,
and never delays the caller. OpenTelemetry's packages read headers, certificates and resource
attributes from the OTEL_* variables of the environment.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from aggregator.runtime.config import Config
from aggregator.runtime.version import VERSION

Value = str | int | float | bool

_tracer: Any = None


class NoSpan:
    """A span that does nothing: tracing is off."""

    recording: Final = False

    def note(self, **_attributes: Value) -> None:
        """Add attributes; two underscores of a name become a dot."""

    def rename(self, _name: str) -> None:
        """Rename the span once more is known of it, such as the route of a request."""


class _Span(NoSpan):
    recording = True  # type: ignore[misc]

    def __init__(self, span: Any) -> None:
        self._span = span

    def note(self, **attributes: Value) -> None:
        self._span.set_attributes(_dotted(attributes))

    def rename(self, name: str) -> None:
        self._span.update_name(name)


class _Opened(AbstractContextManager[NoSpan]):
    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def __enter__(self) -> NoSpan:
        return _Span(self._manager.__enter__())

    def __exit__(self, *raised: Any) -> None:
        self._manager.__exit__(*raised)


_NONE: Final = nullcontext(NoSpan())


def start(config: Config, service: str) -> None:
    """Send the spans of this process from now on, as `service`.

    A second call, or a call without a collector, does nothing. Opens no connection: the first span
    does.
    """
    global _tracer  # noqa: PLW0603 - a process has one tracer
    if _tracer is not None or not config.otlp_endpoint:
        return
    # Imported here, because most processes never trace.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415

    provider = TracerProvider(
        resource=Resource.create(
            {
                "service.name": service,
                "service.version": VERSION,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        ),
        sampler=ParentBasedTraceIdRatio(config.trace_share),
    )
    exporter = OTLPSpanExporter(endpoint=f"{config.otlp_endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("swaps", VERSION)


def span(name: str, **attributes: Value) -> AbstractContextManager[NoSpan]:
    """Return a span inside the open span of this context; two underscores become a dot."""
    if _tracer is None:
        return _NONE
    return _Opened(_tracer.start_as_current_span(name, attributes=_dotted(attributes)))


def server_span(
    name: str, headers: Mapping[str, str], **attributes: Value
) -> AbstractContextManager[NoSpan]:
    """Return the span of a request, a child of the caller's span if `headers` has `traceparent`."""
    if _tracer is None:
        return _NONE
    from opentelemetry.trace import SpanKind  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    return _Opened(
        _tracer.start_as_current_span(
            name,
            context=TraceContextTextMapPropagator().extract(headers),
            kind=SpanKind.SERVER,
            attributes=_dotted(attributes),
        )
    )


def ids() -> dict[str, str]:
    """Return `trace_id` and `span_id` of this context's open span, in hexadecimal; else {}."""
    if _tracer is None:
        return {}
    from opentelemetry.trace import get_current_span  # noqa: PLC0415

    context = get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _dotted(attributes: Mapping[str, Value]) -> dict[str, Value]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
