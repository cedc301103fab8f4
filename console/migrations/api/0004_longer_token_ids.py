"""Token ids of up to 256 characters after the chain."""

import django.core.validators
from django.db import migrations, models

import console.models.registry


class Migration(migrations.Migration):
    dependencies = [
        ("api", "0003_roles"),
    ]

    operations = [
        migrations.AlterField(
            model_name="registeredtoken",
            name="token_id",
            field=models.CharField(
                help_text="chain:token, as in the API",
                max_length=289,
                unique=True,
                validators=[
                    django.core.validators.RegexValidator(
                        "\\A[a-z0-9][a-z0-9-]{0,31}:\\S{1,256}\\Z",
                        "Give chain:token, such as ethereum:0xc02aaa39….",
                    ),
                    console.models.registry.one_line,
                ],
                verbose_name="token id",
            ),
        ),
    ]
