"""The permissions of the page of dead letters."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("aggregator", "0001_clickhouse_health"),
    ]

    operations = [
        migrations.CreateModel(
            name="DeadLetter",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
            ],
            options={
                "verbose_name": "dead letter",
                "permissions": (("replay_deadletter", "Can replay dead letters"),),
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
    ]
