"""The admin's pages of the API: who may call it, how much each may take, who is thrown out; what is
said of tokens; how the pipeline does; and who may do all that.
"""

from __future__ import annotations

from api.admin.access import ApiSubjectAdmin, RevocationAdmin
from api.admin.pipeline import PipelineAdmin
from api.admin.registry import RegisteredTokenAdmin
from api.admin.roles import LogEntryAdmin, OperatorAdmin, RoleAdmin

__all__ = [
    "ApiSubjectAdmin",
    "LogEntryAdmin",
    "OperatorAdmin",
    "PipelineAdmin",
    "RegisteredTokenAdmin",
    "RevocationAdmin",
    "RoleAdmin",
]
