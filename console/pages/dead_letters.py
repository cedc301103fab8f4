"""The pages of dead letters: a list, one letter in full, and replay.

A page reads Kafka while it is rendered, in Django's thread for synchronous views, and says so if
Kafka is down. A replay is recorded in the admin's log and shown with the letter.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

import structlog
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.http import require_POST

from aggregator.dead_letters.preview import Outlook, outlooks, refusal_of
from aggregator.dead_letters.reader import DeadLetterLog, Letter, LetterPosition, replay
from aggregator.decoding.rules import REASONS
from aggregator.member.topics import count_partitions
from aggregator.runtime.config import Config
from aggregator.runtime.errors import SwapsError
from console.models.views import DeadLetter
from console.pages.read_only import ReadOnlyAdmin

if TYPE_CHECKING:
    _Letters = admin.ModelAdmin[DeadLetter]
else:
    _Letters = admin.ModelAdmin

_PAGE: Final = 50
_MOST_REPLAYED: Final = 500
_SHOWN_BYTES: Final = 120
_MOST_SAID: Final = 5
_LONGEST_SAID: Final = 1_000

log = structlog.get_logger(__name__)


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin, _Letters):
    """Needs `aggregator.view_deadletter` to view and `aggregator.replay_deadletter` to replay.

    Letters cannot be deleted here: Kafka deletes them after KAFKA_DLQ_RETENTION.
    """

    def get_urls(self) -> list[URLPattern]:
        """Return the paths of the list, of one letter, and of replay."""
        wrap, replay_view = self.admin_site.admin_view, require_POST(self.replay_view)
        return [
            path("", wrap(self.changelist_view), name="aggregator_deadletter_changelist"),
            path("replay/", wrap(replay_view), name="aggregator_deadletter_replay"),
            path("<str:position>/", wrap(self.letter_view), name="aggregator_deadletter_letter"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """Render the newest letters; `reason` filters, `before` continues with older ones."""
        self._require_view(request)
        reason = request.GET.get("reason") or None
        before = _parsed(request.GET["before"]) if "before" in request.GET else None
        context: dict[str, Any] = {"letters": [], "held": 0, "down": ""}
        config: Config = settings.SWAPS
        try:
            with DeadLetterLog(config.kafka_bootstrap, config.kafka_dlq_topic) as letters:
                extents = letters.extents()
                found = letters.newest(_PAGE, before=before, reason=reason)
            context["held"] = sum(each.end - each.start for each in extents)
            context["letters"] = _rows(found)
            context["older"] = str(found[-1].position) if len(found) == _PAGE else ""
        except SwapsError as error:
            context["down"] = str(error)
        context |= {"reason": reason, "reasons": REASONS, "topic": config.kafka_dlq_topic}
        page = "admin/aggregator/deadletter/change_list.html"
        return self._page(request, page, "Dead letters", context | (extra_context or {}))

    def letter_view(self, request: HttpRequest, position: str) -> TemplateResponse:
        """Render one letter in full; 404 if the topic does not hold it."""
        self._require_view(request)
        config: Config = settings.SWAPS
        context: dict[str, Any] = {"letter": None, "down": ""}
        try:
            with DeadLetterLog(config.kafka_bootstrap, config.kafka_dlq_topic) as letters:
                letter = letters.get(_parsed(position))
        except SwapsError as error:
            context["down"] = str(error)
        else:
            if letter is None:
                raise Http404("no such dead letter")
            context["letter"] = _rows([letter])[0] | {
                "key": _text(letter.key),
                "value": _text(letter.value),
                "bytes": len(letter.value or b""),
                "sha256": letter.sha256,
                "means": REASONS.get(letter.reason, ""),
            }
        page = "admin/aggregator/deadletter/letter.html"
        return self._page(request, page, f"Dead letter {position}", context)

    def replay_view(self, request: HttpRequest) -> HttpResponse:
        """Replay the letters of the form to the source topic."""
        if not request.user.has_perm("aggregator.replay_deadletter"):
            raise PermissionDenied
        chosen = [_parsed(each) for each in dict.fromkeys(request.POST.getlist("position"))]
        back = redirect(reverse("admin:aggregator_deadletter_changelist"))
        if not 1 <= len(chosen) <= _MOST_REPLAYED:
            said = f"Select 1 to {_MOST_REPLAYED} letters, or use manage.py dead_letters replay."
            self.message_user(request, said, messages.WARNING)
            return back
        try:
            sent, skipped = _replay(chosen, force="force" in request.POST)
        except SwapsError as error:
            self.message_user(request, f"Not replayed: {error}", messages.ERROR)
            return back
        self._log(request, sent)
        said = f"{len(sent)} letters replayed to {settings.SWAPS.kafka_topic}."
        if gone := len(chosen) - len(sent) - len(skipped):
            said += f" {gone} are no longer in the topic."
        self.message_user(request, said, messages.SUCCESS if sent else messages.WARNING)
        if skipped:
            why = "; ".join(f"{o.letter.position}: {o.refusal}" for o in skipped[:_MOST_SAID])
            said = f"{len(skipped)} skipped, because they would be refused again: {why}"
            self.message_user(request, said[:_LONGEST_SAID], messages.WARNING)
        return back

    def _log(self, request: HttpRequest, sent: list[Letter]) -> None:
        kind = ContentType.objects.get_for_model(DeadLetter).pk
        for letter in sent:
            LogEntry.objects.create(
                user_id=request.user.pk or 0,
                content_type_id=kind,
                object_id=str(letter.position),
                object_repr=f"dead letter {letter.position}",
                action_flag=CHANGE,
                change_message=f"replayed to {settings.SWAPS.kafka_topic}",
            )
            log.info(
                "dead_letter_replayed",
                position=str(letter.position),
                reason=letter.reason,
                topic=settings.SWAPS.kafka_topic,
                by=request.user.get_username(),
            )

    def _require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _page(
        self, request: HttpRequest, page: str, title: str, context: dict[str, Any]
    ) -> TemplateResponse:
        whole = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "may_replay": request.user.has_perm("aggregator.replay_deadletter"),
            **context,
        }
        response = TemplateResponse(request, page, whole, status=503 if context["down"] else 200)
        response.headers["Cache-Control"] = "no-store"
        return response


def _replay(positions: list[LetterPosition], *, force: bool) -> tuple[list[Letter], list[Outlook]]:
    """Replay the letters that still exist; return those sent and skipped. Raises SwapsError."""
    config: Config = settings.SWAPS
    with DeadLetterLog(config.kafka_bootstrap, config.kafka_dlq_topic) as letters:
        found = [letter for each in positions if (letter := letters.get(each)) is not None]
    looked = outlooks(found, config)
    sent = [each.letter for each in looked if each.sent(force=force)]
    skipped = [each for each in looked if not each.sent(force=force)]
    if not sent:
        return [], skipped
    replay(
        sent,
        bootstrap=config.kafka_bootstrap,
        source_topic=config.kafka_topic,
        partitions=count_partitions(config),
    )
    return sent, skipped


def _now(letter: Letter) -> str:
    """Describe what a replay would do, as far as that is known without reading another topic."""
    if letter.cut:
        return f"cut from {letter.cut_from_bytes:,} bytes: read from {letter.source}"
    refusal = refusal_of(letter, settings.SWAPS.max_future_ms)
    return f"refused again: {refusal}" if refusal else "would pass"


def _rows(letters: list[Letter]) -> list[dict[str, Any]]:
    """Return the letters for a template, with the time of each replay from here."""
    kind = ContentType.objects.get_for_model(DeadLetter)
    entries = LogEntry.objects.filter(
        content_type=kind, object_id__in=[str(each.position) for each in letters]
    )
    replayed = dict(entries.order_by("action_time").values_list("object_id", "action_time"))
    return [
        {
            "position": str(each.position),
            "at": dt.datetime.fromtimestamp(each.at / 1_000, dt.UTC),
            "reason": each.reason,
            "field": each.field,
            "detail": each.detail,
            "source": each.source,
            "now": _now(each),
            "cut_from": each.cut_from_bytes if each.cut else None,
            "start": _text((each.value or b"")[:_SHOWN_BYTES]),
            "replayed_at": replayed.get(str(each.position)),
        }
        for each in letters
    ]


def _text(data: bytes | None) -> str:
    return "" if data is None else data.decode("utf-8", "backslashreplace")


def _parsed(text: str) -> LetterPosition:
    try:
        return LetterPosition.parse(text)
    except ValueError as error:
        raise Http404(str(error)) from None
