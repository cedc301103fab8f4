"""The admin's pages of the API: who may call it, how much each may take, who is thrown out."""

from __future__ import annotations

from api.admin.access import ApiSubjectAdmin, RevocationAdmin

__all__ = ["ApiSubjectAdmin", "RevocationAdmin"]
