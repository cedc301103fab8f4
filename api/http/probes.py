"""The probes: whether the process is alive, and whether it can serve."""

from __future__ import annotations

import msgspec
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from api.board.board import PartitionStatus
from api.services import Services, services


class ServiceReadiness(msgspec.Struct, frozen=True):
    """The answer of `/readyz`.

    `reasons` say why the numbers are not fresh, empty if it is ready; `degraded` lists faults that
    do not affect them.
    """

    ready: bool
    reasons: list[str]
    degraded: list[str]
    partitions: list[PartitionStatus]


class NodeReadiness(msgspec.Struct, frozen=True):
    """The answer of `/readyz/node`; `reasons` are empty if it is ready."""

    ready: bool
    reasons: list[str]


@require_safe
async def healthz(_request: HttpRequest) -> HttpResponse:
    """Answer 200: the process is alive and its event loop runs."""
    return HttpResponse(b'{"alive":true}', content_type="application/json")


@require_safe
async def readyz(_request: HttpRequest) -> HttpResponse:
    """Answer 200 if the node can serve fresh numbers, else 503 with the reasons."""
    readiness = readiness_of(services())
    return HttpResponse(
        msgspec.json.encode(readiness),
        status=200 if readiness.ready else 503,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


@require_safe
async def readyz_node(_request: HttpRequest) -> HttpResponse:
    """Answer 200 if this node itself can serve, else 503 with the reasons.

    For load balancers and orchestrators. Every node shows the same partitions, so a fault of a
    partition or an engine is no reason to remove a node: its answers say what is stale.
    """
    reasons = node_reasons(services())
    return HttpResponse(
        msgspec.json.encode(NodeReadiness(not reasons, reasons)),
        status=503 if reasons else 200,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def node_reasons(parts: Services) -> list[str]:
    """Return why this node cannot serve; empty if it can.

    It needs a key to verify tokens, and after its start a connection to NATS and a filled board. A
    node that loses NATS later still serves, and marks its numbers as stale.
    """
    reasons = [] if parts.auth_fault is None else [parts.auth_fault]
    if not parts.feed.connected_once:
        reasons.append(parts.feed.fault or "NATS was not reached yet")
    if not parts.board.filled_once():
        reasons.append("the board is not filled yet: not every partition has been loaded")
    return reasons


def readiness_of(parts: Services) -> ServiceReadiness:
    """Return the answer of `/readyz` for these parts."""
    partitions = parts.board.status(parts.now_ms())
    reasons = [fault for fault in (parts.feed.fault, parts.auth_fault) if fault]
    if not parts.board.partitions_known():
        reasons.append("no partition is known yet: no aggregator sends heartbeats")
    reasons += [reason for status in partitions for reason in _reasons(status)]
    degraded = parts.board.degraded() + parts.access_faults
    degraded += parts.feed.archives.faults(parts.now_ms())
    degraded += parts.feed.sources.faults(parts.now_ms())
    if parts.history.fault is not None:
        degraded.append(f"the archive does not answer: {parts.history.fault}")
    if parts.feed.clock.fault is not None:
        degraded.append(parts.feed.clock.fault)
    if parts.ingest.fault is not None:
        degraded.append(parts.ingest.fault)
    if parts.feed.unreadable:
        degraded.append(f"{parts.feed.unreadable} messages from NATS could not be read")
    return ServiceReadiness(not reasons, reasons, degraded, partitions)


def _reasons(status: PartitionStatus) -> list[str]:
    name = f"partition {status.partition}"
    reasons = []
    if status.state == "rebuilding":
        reasons.append(
            f"{name} is rebuilding: offset {status.owner_next_offset} of {status.target_offset}"
        )
    elif status.state == "stalled":
        reasons.append(f"{name} is stalled: its owner cannot reach an engine")
    elif status.state in {"silent", "unknown"}:
        age = "ever" if status.age_ms is None else f"for {status.age_ms / 1000:.1f} s"
        reasons.append(f"{name} is stale: no heartbeat {age}")
    elif status.state == "late":
        reasons.append(
            f"{name} is stale: its owner's heartbeats are {(status.late_ms or 0) / 1000:.1f} s old "
            "when they arrive (a queue delays them, or the clocks of the hosts differ)"
        )
    elif status.stale and status.hydrated:
        reasons.append(f"{name} is stale: it lags its owner")
    if not status.hydrated:
        reasons.append(f"{name} is not hydrated")
    return reasons
