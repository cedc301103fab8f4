"""The tables of decisions about the API's callers: limits of subjects, and revocations.

The tables are the source of truth; `console.publish_access` publishes every change to the web
nodes. `QuerySet.update` and `bulk_create` send no signal: call `console.publish_access.changed`
after them.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction

LONGEST_NAME = 256
_POSITIVE = (MinValueValidator(1), MaxValueValidator(1_000_000))


def printable(text: str) -> None:
    """Refuse a text that no token can have as subject or id, such as one with outer blanks."""
    if not text.isprintable() or text != text.strip():
        raise ValidationError("Give printable characters, no blanks before or after.")


class Decision(models.Model):
    """A row whose changes are published to the web nodes."""

    class Meta:
        app_label = "api"
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row and the new revision in one transaction (see `console.apps`)."""
        with transaction.atomic():
            super().save(*args, **kwargs)


class ApiSubject(Decision):
    """A subject (`sub`) with its own limits; an empty limit means the default."""

    subject = models.CharField(
        max_length=LONGEST_NAME,
        unique=True,
        validators=[printable],
        help_text="`sub` of its tokens",
    )
    rate_per_s = models.PositiveIntegerField(
        "cost a second", null=True, blank=True, validators=_POSITIVE
    )
    burst = models.PositiveIntegerField(
        "cost in a burst", null=True, blank=True, validators=_POSITIVE
    )
    connections = models.PositiveIntegerField(
        "open sockets", null=True, blank=True, validators=_POSITIVE
    )
    subscriptions = models.PositiveIntegerField(
        "subscriptions a socket", null=True, blank=True, validators=_POSITIVE
    )
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        app_label = "api"
        verbose_name = "API subject"
        ordering = ("subject",)

    def __str__(self) -> str:
        return self.subject


class Revocation(Decision):
    """The revocation of a token, or of all tokens of a subject, until the row is deleted."""

    class Kind(models.TextChoices):
        """What `value` identifies."""

        TOKEN = "jti", "one token (jti)"
        SUBJECT = "sub", "all tokens of a subject (sub)"

    kind = models.CharField(max_length=3, choices=Kind.choices)
    value = models.CharField(max_length=LONGEST_NAME, validators=[printable])
    reason = models.CharField(
        max_length=200, blank=True, help_text="for colleagues, not for callers"
    )
    expires_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="when it ends automatically; for a token not before its `exp`",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "api"
        ordering = ("-created_at",)
        constraints = (
            models.UniqueConstraint(fields=("kind", "value"), name="revocation_once_each"),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


class AccessRevision(models.Model):
    """One row: the time of the newest change, ms since the epoch, strictly increasing."""

    revision = models.BigIntegerField(default=0)

    class Meta:
        app_label = "api"

    def __str__(self) -> str:
        return str(self.revision)
