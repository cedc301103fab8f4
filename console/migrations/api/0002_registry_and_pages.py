"""The token registry, its revision, and the permissions of the page Pipeline."""

import django.core.validators
from django.db import migrations, models

import console.models.registry


class Migration(migrations.Migration):
    dependencies = [
        ("api", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="Pipeline",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
            ],
            options={
                "verbose_name": "Pipeline",
                "verbose_name_plural": "Pipeline",
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="RegisteredToken",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "token_id",
                    models.CharField(
                        help_text="chain:token, as in the API",
                        max_length=161,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A[a-z0-9][a-z0-9-]{0,31}:\\S{1,128}\\Z",
                                "Give chain:token, such as ethereum:0xc02aaa39….",
                            ),
                            console.models.registry.one_line,
                        ],
                        verbose_name="token id",
                    ),
                ),
                (
                    "symbol",
                    models.CharField(
                        blank=True,
                        help_text="shown instead of the swaps'",
                        max_length=32,
                        validators=[console.models.registry.one_line],
                    ),
                ),
                (
                    "name",
                    models.CharField(
                        blank=True, max_length=128, validators=[console.models.registry.one_line]
                    ),
                ),
                (
                    "decimals",
                    models.PositiveSmallIntegerField(
                        blank=True,
                        help_text="of the token's contract; shown only, amounts arrive converted",
                        null=True,
                        validators=[django.core.validators.MaxValueValidator(36)],
                    ),
                ),
                (
                    "hidden",
                    models.BooleanField(
                        default=False,
                        help_text="shown nowhere: not in lists, not by its id, not on sockets",
                    ),
                ),
                ("verified", models.BooleanField(default=False)),
                ("spam", models.BooleanField(default=False)),
                (
                    "notes",
                    models.TextField(
                        blank=True, help_text="for colleagues, never shown to callers"
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("changed_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "verbose_name": "token",
                "ordering": ("token_id",),
                "permissions": (("import_registeredtoken", "Can import tokens from a file"),),
            },
        ),
        migrations.CreateModel(
            name="RegistryRevision",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("revision", models.BigIntegerField(default=0)),
            ],
            options={
                "default_permissions": (),
            },
        ),
    ]
