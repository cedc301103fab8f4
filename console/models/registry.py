"""The tables of the token registry."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models

from aggregator.contracts.ids import LONGEST_TOKEN_ID as LONGEST_ID
from aggregator.contracts.ids import TokenIdInvalid, canonical_token_id

LONGEST_DECIMALS = 36
_TOKEN_ID = RegexValidator(
    r"\A[a-z0-9][a-z0-9-]{0,31}:\S{1,256}\Z",
    "Give chain:token, such as ethereum:0xc02aaa39….",
)


def one_line(text: str) -> None:
    """Refuse characters that break a line or are invisible; forms strip outer blanks."""
    if not text.isprintable():
        raise ValidationError("Give printable characters on one line.")


class RegisteredToken(models.Model):
    """An operator's entry for a token; an empty field keeps the value of its swaps."""

    token_id = models.CharField(
        "token id",
        max_length=LONGEST_ID,
        unique=True,
        validators=[_TOKEN_ID, one_line],
        help_text="chain:token, as in the API",
    )
    symbol = models.CharField(
        max_length=32, blank=True, validators=[one_line], help_text="shown instead of the swaps'"
    )
    name = models.CharField(max_length=128, blank=True, validators=[one_line])
    decimals = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(LONGEST_DECIMALS)],
        help_text="of the token's contract; shown only, amounts arrive converted",
    )
    hidden = models.BooleanField(
        default=False, help_text="shown nowhere: not in lists, not by its id, not on sockets"
    )
    verified = models.BooleanField(default=False)
    spam = models.BooleanField(default=False)
    notes = models.TextField(blank=True, help_text="for colleagues, never shown to callers")
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        app_label = "api"
        verbose_name = "token"
        ordering = ("token_id",)
        permissions = (("import_registeredtoken", "Can import tokens from a file"),)

    def __str__(self) -> str:
        return self.token_id

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        """Replace the id by its canonical form before the fields are validated."""
        with contextlib.suppress(TokenIdInvalid):
            self.token_id = canonical_token_id(self.token_id)
        super().clean_fields(exclude)

    def clean(self) -> None:
        """Replace the id by its canonical form, as in the events, and refuse verified spam."""
        try:
            self.token_id = canonical_token_id(self.token_id)
        except TokenIdInvalid as error:
            raise ValidationError({"token_id": f"{str(error).capitalize()}."}) from None
        if self.verified and self.spam:
            raise ValidationError({"spam": "A token is verified or spam, not both."})


class RegistryRevision(models.Model):
    """One row: the time of the newest change, ms since the epoch, strictly increasing."""

    revision = models.BigIntegerField(default=0)

    class Meta:
        app_label = "api"
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.revision)
