"""The operators' decisions about callers: which are revoked, and the limits of each subject.

`AccessState` holds every decision of one revision, in the format that Redis stores under
`auth:state`. A web node keeps the newest state in an `Access` and consults it for every request.
Pure: `api.auth.control` reads the states, `console` writes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import msgspec

from aggregator.runtime.config import Config
from api.auth.jwt import Claims

Kind = Literal["jti", "sub"]
CONNECTIONS: Final = 10
SUBSCRIPTIONS: Final = 200


class RevocationEntry(msgspec.Struct, frozen=True):
    """The revocation of one token (`jti`) or of all tokens of a subject (`sub`).

    `until` is the end of the revocation in seconds since the epoch, None for one without an end.
    `reason` is sent to the open sockets that the revocation closes.
    """

    kind: Kind
    value: str
    until: int | None = None
    reason: str = ""


class OwnLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """The limits that an operator gave to one subject; None keeps the default."""

    rate_per_s: int | None = None
    burst: int | None = None
    connections: int | None = None
    subscriptions: int | None = None


class AccessState(msgspec.Struct, frozen=True):
    """Every decision in force. `revision`: time of the last change, ms since the epoch, unique."""

    revision: int
    revoked: list[RevocationEntry]
    limits: dict[str, OwnLimits]


class SubjectLimits(NamedTuple):
    """The limits of a subject.

    `rate_per_s` and `burst` are the refill and the size of its token bucket, in units of cost;
    `connections` counts its open sockets, `subscriptions` those of each socket.
    """

    rate_per_s: int
    burst: int
    connections: int = CONNECTIONS
    subscriptions: int = SUBSCRIPTIONS


class Access:
    """The newest state. Needs no lock, because only one event loop uses it."""

    def __init__(self, default: SubjectLimits, now_s: Callable[[], float] = time.time) -> None:
        """`now_s` is the wall clock."""
        self._default = default
        self._now_s = now_s
        self._revoked: dict[tuple[str, str], RevocationEntry] = {}
        self._limits: dict[str, SubjectLimits] = {}
        self._listeners: list[Callable[[RevocationEntry], object]] = []
        self.revision = 0

    def listen(self, listener: Callable[[RevocationEntry], object]) -> None:
        """Call `listener` with each revocation that comes into force."""
        self._listeners.append(listener)

    def refuses(self, claims: Claims, now_s: float) -> bool:
        """Return whether the token or its subject is revoked at `now_s`, wall-clock seconds."""
        if not self._revoked:
            return False
        entries = [self._revoked.get(("sub", claims.subject))]
        if claims.token_id is not None:
            entries.append(self._revoked.get(("jti", claims.token_id)))
        return any(each is not None and _holds(each, now_s) for each in entries)

    def limits(self, subject: str) -> SubjectLimits:
        """Return the limits of the subject."""
        return self._limits.get(subject, self._default)

    def take(self, state: AccessState) -> None:
        """Put the state in force, and call the listeners with every new revocation.

        A revocation with a changed end counts as new: the old one may have expired in between, so
        that sockets of the subject are open again.
        """
        before, self._revoked = self._revoked, {(r.kind, r.value): r for r in state.revoked}
        self._limits = {
            subject: limits_of(own, self._default) for subject, own in state.limits.items()
        }
        self.revision = state.revision
        now_s = self._now_s()
        for name, revoked in self._revoked.items():
            if revoked != before.get(name) and _holds(revoked, now_s):
                for listener in self._listeners:
                    listener(revoked)


def _holds(revoked: RevocationEntry, now_s: float) -> bool:
    return revoked.until is None or now_s < revoked.until


def limits_of(own: OwnLimits, default: SubjectLimits) -> SubjectLimits:
    """Return the subject's own limits, completed by those of `default`."""
    given = msgspec.structs.asdict(own)
    return default._replace(**{name: value for name, value in given.items() if value is not None})


def default_limits(config: Config) -> SubjectLimits:
    """Return the limits of a subject for which the operators set none."""
    return SubjectLimits(
        config.rate_per_s,
        config.rate_burst,
        config.ws_subject_connections,
        config.ws_subscriptions,
    )
