"""The pages of the token registry, with live numbers for each row. Changes are shown within 2 s.

The numbers come from this web node's board; a script refreshes them while the page is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join

from aggregator.contracts.stats import decimal_text
from api.services import services
from console import registry_table as table
from console.models.registry import RegisteredToken
from console.publish_registry import changed
from console.registry_intake import import_csv

if TYPE_CHECKING:
    _Tokens = admin.ModelAdmin[RegisteredToken]
else:
    _Tokens = admin.ModelAdmin

_MOST_LIVE: Final = 200
_LIVE: Final = ("price", "volume", "trades", "traders")


class UploadForm(forms.Form):
    """The upload of a CSV file of tokens."""

    file = forms.FileField(label="CSV file, UTF-8")


@admin.register(RegisteredToken)
class RegisteredTokenAdmin(_Tokens):
    """The registered tokens; any other token is shown as its swaps describe it."""

    change_list_template = "admin/api/registeredtoken/change_list.html"
    list_display = (
        "token_id", "shown_symbol", "marks",
        *(f"live_{name}" for name in _LIVE),
    )  # fmt: skip
    list_filter = ("hidden", "verified", "spam")
    list_per_page = 50
    search_fields = ("token_id", "symbol", "name", "notes")
    search_help_text = "token id, symbol, name or notes"
    readonly_fields = ("created_at", "changed_at", "live_numbers")
    actions = ("hide", "show", "verify", "unverify", "mark_spam", "unmark_spam", "export")
    fieldsets = (
        (None, {"fields": ("token_id", "symbol", "name", "decimals")}),
        ("What callers see", {"fields": ("hidden", "verified", "spam")}),
        ("For colleagues", {"fields": ("notes", "live_numbers", "created_at", "changed_at")}),
    )

    class Media:
        js = ("api/registry.js",)
        css = {"all": ("api/admin.css",)}  # noqa: RUF012 - as Django writes it

    def get_readonly_fields(
        self,
        request: HttpRequest,  # noqa: ARG002 - the admin's signature
        obj: RegisteredToken | None = None,
    ) -> tuple[str, ...]:
        """Make the token id read-only after it was entered."""
        return (*self.readonly_fields, "token_id") if obj else self.readonly_fields

    @admin.display(description="symbol", ordering="symbol")
    def shown_symbol(self, token: RegisteredToken) -> str:
        """Show the registered symbol, else that of the swaps."""
        published = services().board.published(token.token_id)
        return token.symbol or (published.symbol if published else None) or "-"

    @admin.display(description="flags")
    def marks(self, token: RegisteredToken) -> str:
        """Show the flags that are set as badges."""
        # "unseen", because the admin's stylesheet hides the class "hidden".
        looks = {"hidden": "unseen", "verified": "verified", "spam": "spam"}
        badges = [(look, name) for name, look in looks.items() if getattr(token, name)]
        return format_html_join(" ", '<span class="badge {}">{}</span>', badges) or "-"

    @admin.display(description="price, USD")
    def live_price(self, token: RegisteredToken) -> str:
        """Show the last price."""
        return _cell(token.token_id, "price")

    @admin.display(description="volume 24 h, USD")
    def live_volume(self, token: RegisteredToken) -> str:
        """Show the volume of the longest window."""
        return _cell(token.token_id, "volume")

    @admin.display(description="trades 24 h")
    def live_trades(self, token: RegisteredToken) -> str:
        """Show the trades of the longest window."""
        return _cell(token.token_id, "trades")

    @admin.display(description="traders 24 h")
    def live_traders(self, token: RegisteredToken) -> str:
        """Show the distinct traders of the longest window."""
        return _cell(token.token_id, "traders")

    @admin.display(description="numbers now")
    def live_numbers(self, token: RegisteredToken) -> str:
        """Show all live numbers in one line."""
        return ", ".join(f"{name} {said}" for name, said in _numbers(token.token_id).items())

    @admin.action(description="Hide from callers", permissions=["change"])
    def hide(self, request: HttpRequest, queryset: QuerySet[RegisteredToken]) -> None:
        """Hide the tokens from callers."""
        self._set(request, queryset, hidden=True)

    @admin.action(description="Show to callers again", permissions=["change"])
    def show(self, request: HttpRequest, queryset: QuerySet[RegisteredToken]) -> None:
        """Show the tokens to callers again."""
        self._set(request, queryset, hidden=False)

    @admin.action(description="Mark as verified", permissions=["change"])
    def verify(self, request: HttpRequest, queryset: QuerySet[RegisteredToken]) -> None:
        """Mark the tokens as verified, and not as spam."""
        self._set(request, queryset, verified=True, spam=False)

    @admin.action(description="Remove the mark verified", permissions=["change"])
    def unverify(self, request: HttpRequest, queryset: QuerySet[RegisteredToken]) -> None:
        """Remove the mark verified."""
        self._set(request, queryset, verified=False)

    @admin.action(description="Mark as spam", permissions=["change"])
    def mark_spam(self, request: HttpRequest, queryset: QuerySet[RegisteredToken]) -> None:
        """Mark the tokens as spam, and not as verified."""
        self._set(request, queryset, spam=True, verified=False)

    @admin.action(description="Remove the mark spam", permissions=["change"])
    def unmark_spam(self, request: HttpRequest, queryset: QuerySet[RegisteredToken]) -> None:
        """Remove the mark spam."""
        self._set(request, queryset, spam=False)

    @admin.action(description="Export as CSV", permissions=["view"])
    def export(
        self,
        request: HttpRequest,  # noqa: ARG002 - an action's signature
        queryset: QuerySet[RegisteredToken],
    ) -> StreamingHttpResponse:
        """Download the selected tokens as a CSV file that can be imported."""
        return StreamingHttpResponse(
            table.write(list(queryset)),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="tokens.csv"'},
        )

    def _set(
        self, request: HttpRequest, queryset: QuerySet[RegisteredToken], **flags: bool
    ) -> None:
        """Set the flags of all tokens in one transaction, so that web nodes apply one change."""
        with transaction.atomic():
            tokens = list(queryset.select_for_update())
            ids = [each.pk for each in tokens]
            RegisteredToken.objects.filter(pk__in=ids).update(**flags, changed_at=Now())
            changed()
            said = ", ".join(f"{name} = {value}" for name, value in flags.items())
            _log(request, tokens, CHANGE, f"by an action: {said}")
        self.message_user(request, f"{len(tokens)} tokens changed: {said}.", messages.SUCCESS)

    def get_urls(self) -> list[URLPattern]:
        """Return the paths of the admin, and those of import, export and live numbers."""
        wrap = self.admin_site.admin_view
        own = [
            path("import/", wrap(self.import_view), name="api_registeredtoken_import"),
            path("export/", wrap(self.export_view), name="api_registeredtoken_export"),
            path("live/", wrap(self.live_view), name="api_registeredtoken_live"),
        ]
        return own + super().get_urls()

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Render the list, with the import link for users who may import."""
        may_import = request.user.has_perm("api.import_registeredtoken")
        return super().changelist_view(request, {"may_import": may_import, **(extra_context or {})})

    def live_view(self, request: HttpRequest) -> JsonResponse:
        """Return the live numbers of some tokens to the script of an open page."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        ids = request.GET.getlist("id")[:_MOST_LIVE]
        return JsonResponse({token_id: _numbers(token_id) for token_id in ids})

    def export_view(self, request: HttpRequest) -> StreamingHttpResponse:
        """Download every token as a CSV file."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return self.export(request, RegisteredToken.objects.all())

    def import_view(self, request: HttpRequest) -> HttpResponse:
        """Import a file: all of its rows, or none if one is wrong."""
        if not request.user.has_perm("api.import_registeredtoken"):
            raise PermissionDenied
        form = UploadForm(request.POST or None, request.FILES or None)
        faults: list[str] = []
        if request.method == "POST" and form.is_valid():
            try:
                made, edited = self._import(request, form.cleaned_data["file"].read())
            except table.BadTable as bad:
                faults = bad.faults
            else:
                said = f"{made} tokens added, {edited} tokens changed."
                self.message_user(request, said, messages.SUCCESS)
                return redirect(reverse("admin:api_registeredtoken_changelist"))
        context = {
            **self.admin_site.each_context(request),
            "title": "Import tokens",
            "opts": self.opts,
            "form": form,
            "faults": faults,
            "columns": table.COLUMNS,
            "most_rows": table.MOST_ROWS,
            "most_bytes": settings.SWAPS.body_limit,
        }
        page = "admin/api/registeredtoken/import.html"
        return TemplateResponse(request, page, context, status=422 if faults else 200)

    @staticmethod
    def _import(request: HttpRequest, content: bytes) -> tuple[int, int]:
        with transaction.atomic():
            imported = import_csv(content)
            _log(request, imported.added, ADDITION, "by a file")
            _log(request, imported.edited, CHANGE, "by a file")
        return len(imported.added), len(imported.edited)


def _log(request: HttpRequest, tokens: Sequence[RegisteredToken], flag: int, said: str) -> None:
    if tokens:
        LogEntry.objects.log_actions(request.user.pk or 0, tokens, flag, said)


def _cell(token_id: str, name: str) -> str:
    return format_html(
        '<span data-live="{}" data-token="{}">{}</span>', name, token_id, _numbers(token_id)[name]
    )


def _numbers(token_id: str) -> dict[str, str]:
    """Return the board's numbers of the token, hidden or not, formatted for people."""
    published = services().board.published(token_id)
    if published is None or not published.windows:
        return dict.fromkeys(_LIVE, "-")
    window = list(published.windows.values())[-1]
    return {
        "price": _short(published.last_price_usd),
        "volume": f"{float(window.volume_usd):,.2f}",
        "trades": f"{window.trades:,}",
        "traders": f"{window.traders:,}",
    }


def _short(price: str | None) -> str:
    """Format a price with six significant digits and no exponent."""
    if price is None:
        return "-"
    return decimal_text(float(f"{float(price):.6g}"))
