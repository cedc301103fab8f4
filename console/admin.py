"""Registers the admin pages. Django imports this module by its name."""

from __future__ import annotations

from console.pages.access import ApiSubjectAdmin, RevocationAdmin
from console.pages.clickhouse_health import ClickHouseHealthAdmin
from console.pages.dead_letters import DeadLetterAdmin
from console.pages.pipeline import PipelineAdmin
from console.pages.registry import RegisteredTokenAdmin
from console.pages.roles import LogEntryAdmin, OperatorAdmin, RoleAdmin

__all__ = [
    "ApiSubjectAdmin",
    "ClickHouseHealthAdmin",
    "DeadLetterAdmin",
    "LogEntryAdmin",
    "OperatorAdmin",
    "PipelineAdmin",
    "RegisteredTokenAdmin",
    "RevocationAdmin",
    "RoleAdmin",
]
