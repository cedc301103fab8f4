"""The pages of users, roles and the admin's log.

The roles are the groups viewer, operator and admin (`console/migrations/api/0003_roles.py`). Only a
superuser may edit a superuser, a group, or the fields that make a superuser; otherwise anybody who
may edit users could become one.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest

from console.pages.read_only import ReadOnlyAdmin

_FOR_SUPERUSERS = ("is_superuser", "user_permissions")

admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class OperatorAdmin(UserAdmin):  # type: ignore[type-arg]
    """Users; a role is a group, and `staff status` gives access to the admin."""

    list_display = ("username", "roles", "is_active", "is_staff", "is_superuser", "last_login")

    @admin.display(description="roles")
    def roles(self, user: User) -> str:
        """Show the user's groups."""
        return ", ".join(user.groups.values_list("name", flat=True)) or "-"

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """Let only a superuser set what makes a superuser."""
        fixed = tuple(super().get_readonly_fields(request, obj))
        return fixed if _is_superuser(request) else (*fixed, *_FOR_SUPERUSERS)

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Let only a superuser change one: setting the password would give access."""
        if obj is not None and obj.is_superuser and not _is_superuser(request):
            return False
        return super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Let only a superuser delete one."""
        if obj is not None and obj.is_superuser and not _is_superuser(request):
            return False
        return super().has_delete_permission(request, obj)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Protect superusers from the action that deletes several users."""
        found, counts, needed, protected = super().get_deleted_objects(objs, request)
        if not _is_superuser(request):
            protected = [*protected, *(f"superuser {u}" for u in objs if u.is_superuser)]
        return found, counts, needed, protected


@admin.register(Group)
class RoleAdmin(GroupAdmin):
    """Roles, which only superusers may change."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Allow superusers only."""
        return _is_superuser(request)

    def has_change_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        """Allow superusers only."""
        return _is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        """Allow superusers only."""
        return _is_superuser(request)


@admin.register(LogEntry)
class LogEntryAdmin(ReadOnlyAdmin, admin.ModelAdmin):  # type: ignore[type-arg]
    """What was changed in the admin, when and by whom; read-only."""

    list_display = ("action_time", "user", "content_type", "object_repr", "what")
    list_filter = ("action_flag", "content_type")
    search_fields = ("object_repr", "change_message", "user__username")
    date_hierarchy = "action_time"
    list_select_related = ("user", "content_type")

    @admin.display(description="what")
    def what(self, entry: LogEntry) -> str:
        """Describe the change."""
        return f"{entry.get_action_flag_display()}: {entry.get_change_message()}"


def _is_superuser(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_superuser)
