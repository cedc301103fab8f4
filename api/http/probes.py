"""The probes: is the process alive, and can it serve."""

from __future__ import annotations

import msgspec
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from api.board.board import PartitionStatus
from api.services import Services, services


class ServiceReadiness(msgspec.Struct, frozen=True):
    """The answer of `/readyz`.

    `reasons` are why the node should get no traffic, empty where it is ready; `degraded` is what
    is wrong beside that.
    """

    ready: bool
    reasons: list[str]
    degraded: list[str]
    partitions: list[PartitionStatus]


class NodeReadiness(msgspec.Struct, frozen=True):
    """The answer of `/readyz/node`; `reasons` are empty where it is ready."""

    ready: bool
    reasons: list[str]


@require_safe
async def healthz(_request: HttpRequest) -> HttpResponse:
    """The process is alive and its event loop turns."""
    return HttpResponse(b'{"alive":true}', content_type="application/json")


@require_safe
async def readyz(_request: HttpRequest) -> HttpResponse:
    """200 where the node can serve fresh numbers, 503 with the reasons where it cannot."""
    readiness = readiness_of(services())
    return HttpResponse(
        msgspec.json.encode(readiness),
        status=200 if readiness.ready else 503,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


@require_safe
async def readyz_node(_request: HttpRequest) -> HttpResponse:
    """200 where this node itself can serve, 503 with the reasons where it cannot.

    For balancers and orchestrators. Every node shows the same partitions, so what is wrong with a
    partition or an engine is no reason to take a node out: its answers say what is stale.
    """
    reasons = node_reasons(services())
    return HttpResponse(
        msgspec.json.encode(NodeReadiness(not reasons, reasons)),
        status=503 if reasons else 200,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def node_reasons(parts: Services) -> list[str]:
    """Why this node cannot serve: what it needs once after its start, and a key to let callers in.

    Once the board was filled and NATS connected, losing either leaves a node that shows old numbers
    and says so.
    """
    reasons = [] if parts.auth_fault is None else [parts.auth_fault]
    if not parts.feed.connected_once:
        reasons.append(parts.feed.fault or "NATS was not reached yet")
    if not parts.board.filled_once():
        reasons.append("the board is not filled yet: not every partition has been loaded")
    return reasons


def readiness_of(parts: Services) -> ServiceReadiness:
    """What `/readyz` says of these parts now."""
    partitions = parts.board.status(parts.now_ms())
    reasons = [fault for fault in (parts.feed.fault, parts.auth_fault) if fault]
    if not parts.board.partitions_known():
        reasons.append("no partition is known yet: no aggregator has been heard")
    reasons += [reason for status in partitions for reason in _reasons(status)]
    degraded = parts.board.degraded() + parts.access_faults
    degraded += parts.feed.archives.faults(parts.now_ms())
    if parts.history.fault is not None:
        degraded.append(f"the archive does not answer: {parts.history.fault}")
    if parts.feed.clock.fault is not None:
        degraded.append(parts.feed.clock.fault)
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
            "when they arrive (something between queues, or the clocks of the hosts differ)"
        )
    elif status.stale and status.hydrated:
        reasons.append(f"{name} is stale: behind its owner")
    if not status.hydrated:
        reasons.append(f"{name} is not hydrated")
    return reasons
