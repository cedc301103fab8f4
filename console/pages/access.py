"""The pages of subjects with their limits, and of revocations. Changes take effect within 2 s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION, LogEntry
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest

from aggregator.runtime.config import Config
from api.auth.ratelimit import COST_BATCH, COST_OVERVIEW
from console.models.access import ApiSubject, Revocation

if TYPE_CHECKING:
    _Subjects = admin.ModelAdmin[ApiSubject]
    _Revocations = admin.ModelAdmin[Revocation]
else:
    _Subjects = _Revocations = admin.ModelAdmin


@admin.register(ApiSubject)
class ApiSubjectAdmin(_Subjects):
    """Subjects with their own limits; every other subject has the defaults."""

    list_display = (
        *("subject", "rate_per_s", "burst", "in_force", "connections", "subscriptions"),
        "changed_at",
    )
    search_fields = ("subject", "notes")
    readonly_fields = ("in_force", "created_at", "changed_at")
    actions = ("revoke",)

    @admin.display(description="in force from one address")
    def in_force(self, subject: ApiSubject) -> str:
        """Show what a caller at one address gets of these limits."""
        return effective(subject, settings.SWAPS)

    def get_form(
        self,
        request: HttpRequest,
        obj: ApiSubject | None = None,
        change: bool = False,
        **kwargs: Any,
    ) -> type[ModelForm[ApiSubject]]:
        """Add help texts that name what a number limits, and its default."""
        kwargs["help_texts"] = _helps(settings.SWAPS)
        return super().get_form(request, obj, change=change, **kwargs)

    def get_fields(self, request: HttpRequest, obj: ApiSubject | None = None) -> Any:
        """Leave out the read-only fields of a new subject: they have no values yet."""
        fields = super().get_fields(request, obj)
        return fields if obj else [each for each in fields if each not in self.readonly_fields]

    @admin.action(description="Revoke all tokens of the selected subjects", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiSubject]) -> None:
        """Revoke the subjects, which also closes their open sockets."""
        if not request.user.has_perm("api.add_revocation"):
            self.message_user(request, "You may not add revocations.", messages.ERROR)
            return
        made = 0
        for each in queryset:
            revocation, new = Revocation.objects.get_or_create(
                kind=Revocation.Kind.SUBJECT, value=each.subject
            )
            if new:
                LogEntry.objects.log_actions(
                    request.user.pk or 0, [revocation], ADDITION, "by the action on subjects"
                )
            made += new
        self.message_user(request, f"{made} subjects revoked.", messages.SUCCESS)


@admin.register(Revocation)
class RevocationAdmin(_Revocations):
    """Revoked tokens and subjects. Deleting a row lifts the revocation."""

    list_display = ("value", "kind", "reason", "expires_at", "created_at")
    list_filter = ("kind",)
    search_fields = ("value", "reason")
    readonly_fields = ("created_at",)

    def get_readonly_fields(
        self,
        request: HttpRequest,  # noqa: ARG002 - the admin's signature
        obj: Revocation | None = None,
    ) -> tuple[str, ...]:
        """Make what is revoked read-only after it was entered."""
        return (*self.readonly_fields, "kind", "value") if obj else self.readonly_fields


def effective(subject: ApiSubject, config: Config) -> str:
    """Describe the rate and burst that a subject has at one address, and what caps them.

    A request is charged to the bucket of the subject and to that of its address, so the smaller one
    decides.
    """
    rate = subject.rate_per_s or config.rate_per_s
    burst = subject.burst or config.rate_burst
    in_force = min(rate, config.rate_ip_per_s), min(burst, config.rate_ip_burst)
    said = f"{in_force[0]:,} a second, bursts of {in_force[1]:,}"
    caps = [
        f"at {most:,} by the address's bucket unless {setting} is raised"
        for value, most, setting in (
            (rate, config.rate_ip_per_s, "RATE_LIMIT_IP"),
            (burst, config.rate_ip_burst, "RATE_BURST_IP"),
        )
        if value > most
    ]
    return f"{said} (capped {' and '.join(caps)})" if caps else said


def _helps(config: Config) -> dict[str, str]:
    return {
        "subject": "the `sub` of its tokens",
        "rate_per_s": "refill of its bucket in cost a second: the stats of a token cost 1, "
        f"an overview {COST_OVERVIEW}, a batch {COST_BATCH}. Empty: {config.rate_per_s}. "
        f"Above {config.rate_ip_per_s:,} it helps only a caller with several addresses: each has "
        "its own bucket (RATE_LIMIT_IP).",
        "burst": f"size of the bucket. Empty: {config.rate_burst}. "
        f"Above {config.rate_ip_burst:,} the address's own bucket caps it (RATE_BURST_IP).",
        "connections": f"open WebSockets. Empty: {config.ws_subject_connections}.",
        "subscriptions": f"channels and tokens on one WebSocket. Empty: {config.ws_subscriptions}.",
        "notes": "for colleagues",
    }
