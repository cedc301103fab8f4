"""Imports a CSV file into the token registry: all of its rows, or none if one is wrong."""

from __future__ import annotations

from typing import NamedTuple

from django.db import transaction
from django.db.models.functions import Now

from console import registry_table as table
from console.models.registry import RegisteredToken
from console.publish_registry import changed


class Imported(NamedTuple):
    """The tokens that a file added and those that it changed."""

    added: list[RegisteredToken]
    edited: list[RegisteredToken]


def import_csv(content: bytes) -> Imported:
    """Save the rows of a CSV file; publish the registry after the transaction commits.

    Raises table.BadTable that names what is wrong.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise table.BadTable(["The file is not UTF-8 text."]) from None
    with transaction.atomic():
        tokens = table.read(text)
        imported = Imported(
            [each for each in tokens if each.pk is None],
            [each for each in tokens if each.pk is not None],
        )
        RegisteredToken.objects.bulk_create(imported.added, batch_size=500)
        names = [name for name in table.COLUMNS if name != "token_id"]
        for each in imported.edited:
            each.changed_at = Now()
        RegisteredToken.objects.bulk_update(imported.edited, [*names, "changed_at"], batch_size=500)
        changed()
    return imported
