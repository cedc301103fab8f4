"""The tables of the operators' decisions, and models without a table for the other pages."""

from __future__ import annotations

from console.models.access import AccessRevision, ApiSubject, Decision, Revocation
from console.models.registry import RegisteredToken, RegistryRevision
from console.models.views import ClickHouseHealth, DeadLetter, Pipeline

__all__ = [
    "AccessRevision",
    "ApiSubject",
    "ClickHouseHealth",
    "DeadLetter",
    "Decision",
    "Pipeline",
    "RegisteredToken",
    "RegistryRevision",
    "Revocation",
]
