"""Models without a table: each gives an admin page its entry in the index and its permissions."""

from __future__ import annotations

from django.db import models


class ClickHouseHealth(models.Model):
    """The page ClickHouse health; has no table."""

    class Meta:
        app_label = "aggregator"
        managed = False
        default_permissions = ("view",)
        verbose_name = "ClickHouse health"
        verbose_name_plural = "ClickHouse health"

    def __str__(self) -> str:
        return "ClickHouse health"


class DeadLetter(models.Model):
    """The page of dead letters; has no table, because dead letters are in Kafka."""

    class Meta:
        app_label = "aggregator"
        managed = False
        default_permissions = ("view",)
        permissions = (("replay_deadletter", "Can replay dead letters"),)
        verbose_name = "dead letter"

    def __str__(self) -> str:
        return "dead letter"


class Pipeline(models.Model):
    """The page Pipeline; has no table."""

    class Meta:
        app_label = "api"
        managed = False
        default_permissions = ("view",)
        verbose_name = verbose_name_plural = "Pipeline"

    def __str__(self) -> str:
        return "Pipeline"
