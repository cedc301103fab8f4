"""What operators decide about the API's callers: limits of a subject, and who is thrown out.

The tables are the truth; `console.publish_access` brings every change to the web nodes. A change by
`QuerySet.update` or `bulk_create` tells nobody: call `console.publish_access.changed` after it.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction

LONGEST_NAME = 256
_POSITIVE = (MinValueValidator(1), MaxValueValidator(1_000_000))


def printable(text: str) -> None:
    """Refuse what no token can carry as a subject or id, blanks around it included."""
    if not text.isprintable() or text != text.strip():
        raise ValidationError("Give printable characters, no blanks before or after.")


class Decision(models.Model):
    """A row that the web nodes must hear of, in the transaction that writes it."""

    class Meta:
        app_label = "api"
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row and the new revision together (see `api.apps`)."""
        with transaction.atomic():
            super().save(*args, **kwargs)


class ApiSubject(Decision):
    """A subject (`sub`) of the tokens and the limits of its own; an empty one is the default's."""

    subject = models.CharField(
        max_length=LONGEST_NAME,
        unique=True,
        validators=[printable],
        help_text="`sub` of its tokens",
    )
    rate_per_s = models.PositiveIntegerField(
        "cost a second", null=True, blank=True, validators=_POSITIVE
    )
    burst = models.PositiveIntegerField("cost at once", null=True, blank=True, validators=_POSITIVE)
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
    """A token, or all tokens of a subject, that let nobody in until the row is taken away."""

    class Kind(models.TextChoices):
        """What `value` is."""

        TOKEN = "jti", "one token (jti)"
        SUBJECT = "sub", "all tokens of a subject (sub)"

    kind = models.CharField(max_length=3, choices=Kind.choices)
    value = models.CharField(max_length=LONGEST_NAME, validators=[printable])
    reason = models.CharField(
        max_length=200, blank=True, help_text="for colleagues, not for callers"
    )
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text="when it ends by itself; for a token not before its `exp`"
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
    """One row: ms since the epoch of the newest change, and always above the one before."""

    revision = models.BigIntegerField(default=0)

    class Meta:
        app_label = "api"

    def __str__(self) -> str:
        return str(self.revision)
