"""The groups viewer, operator and admin, and the permissions of each in the admin."""

from typing import Any

from django.contrib.auth.management import create_permissions
from django.db import migrations

_VIEWER = (
    "aggregator.view_clickhousehealth",
    "aggregator.view_deadletter",
    "api.view_apisubject",
    "api.view_pipeline",
    "api.view_registeredtoken",
    "api.view_revocation",
)
_OPERATOR = (
    *_VIEWER,
    "admin.view_logentry",
    "aggregator.replay_deadletter",
    "api.add_apisubject",
    "api.change_apisubject",
    "api.add_registeredtoken",
    "api.change_registeredtoken",
    "api.delete_registeredtoken",
    "api.import_registeredtoken",
    "api.add_revocation",
    "api.change_revocation",
    "api.delete_revocation",
)
_ADMIN = (
    *_OPERATOR,
    "api.delete_apisubject",
    "auth.view_group",
    "auth.view_user",
    "auth.add_user",
    "auth.change_user",
    "auth.delete_user",
)
ROLES = {"viewer": _VIEWER, "operator": _OPERATOR, "admin": _ADMIN}


def make(apps: Any, schema_editor: Any) -> None:
    """Create the groups, and before them the permissions.

    Django creates permissions only after all migrations.
    """
    for label in ("admin", "aggregator", "api", "auth"):
        config = apps.get_app_config(label)
        config.models_module = True
        create_permissions(config, apps=apps, verbosity=0, using=schema_editor.connection.alias)
        config.models_module = None
    permission = apps.get_model("auth", "Permission")
    for role, names in ROLES.items():
        group, _ = apps.get_model("auth", "Group").objects.get_or_create(name=role)
        for name in names:
            label, _, codename = name.partition(".")
            found = permission.objects.get(content_type__app_label=label, codename=codename)
            group.permissions.add(found)


def unmake(apps: Any, _schema_editor: Any) -> None:
    """Delete the groups; users stay, without their role."""
    apps.get_model("auth", "Group").objects.filter(name__in=ROLES).delete()


class Migration(migrations.Migration):
    dependencies = [
        ("api", "0002_registry_and_pages"),
        ("aggregator", "0002_dead_letters"),
        ("admin", "0003_logentry_add_action_flag_choices"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [migrations.RunPython(make, unmake)]
