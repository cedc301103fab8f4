"""The admin's pages of the API: who may call it, how much each may take, who is thrown out; what is
said of tokens; how the pipeline does; and who may do all that.
"""

from __future__ import annotations

from console.pages.access import ApiSubjectAdmin, RevocationAdmin
from console.pages.pipeline import PipelineAdmin
from console.pages.registry import RegisteredTokenAdmin
from console.pages.roles import LogEntryAdmin, OperatorAdmin, RoleAdmin

__all__ = [
    "ApiSubjectAdmin",
    "LogEntryAdmin",
    "OperatorAdmin",
    "PipelineAdmin",
    "RegisteredTokenAdmin",
    "RevocationAdmin",
    "RoleAdmin",
]
