"""What the operators decided: who is thrown out, and how much each subject may take.

`AccessState` is the whole decision of one revision, as it lies in Redis under `auth:state`; a web
node holds the newest one in an `Access` and asks it at every request. Pure: `api.auth.control`
brings the states, the models and the admin make them.
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
    """A token (`jti`) or all tokens of a subject (`sub`) that let nobody in any more.

    `until` is seconds since the epoch, None for ever. `reason` is told to open sockets.
    """

    kind: Kind
    value: str
    until: int | None = None
    reason: str = ""


class OwnLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """The limits that an operator gave one subject; None leaves the default."""

    rate_per_s: int | None = None
    burst: int | None = None
    connections: int | None = None
    subscriptions: int | None = None


class AccessState(msgspec.Struct, frozen=True):
    """Every decision in force. `revision` is ms since the epoch of the last change, and unique."""

    revision: int
    revoked: list[RevocationEntry]
    limits: dict[str, OwnLimits]


class SubjectLimits(NamedTuple):
    """What a subject may take: cost a second and at once, open sockets, subscriptions on each."""

    rate_per_s: int
    burst: int
    connections: int = CONNECTIONS
    subscriptions: int = SUBSCRIPTIONS


class Access:
    """The newest state. Used from one event loop only, so it needs no lock."""

    def __init__(self, default: SubjectLimits, now_s: Callable[[], float] = time.time) -> None:
        """`now_s` is the wall clock."""
        self._default = default
        self._now_s = now_s
        self._revoked: dict[tuple[str, str], RevocationEntry] = {}
        self._limits: dict[str, SubjectLimits] = {}
        self._listeners: list[Callable[[RevocationEntry], object]] = []
        self.revision = 0

    def listen(self, listener: Callable[[RevocationEntry], object]) -> None:
        """Have `listener` called with each revocation that comes into force."""
        self._listeners.append(listener)

    def refuses(self, claims: Claims, now_s: float) -> bool:
        """Whether the token or its subject is revoked at `now_s`, wall time."""
        if not self._revoked:
            return False
        entries = [self._revoked.get(("sub", claims.subject))]
        if claims.token_id is not None:
            entries.append(self._revoked.get(("jti", claims.token_id)))
        return any(each is not None and _holds(each, now_s) for each in entries)

    def limits(self, subject: str) -> SubjectLimits:
        """What the subject may take."""
        return self._limits.get(subject, self._default)

    def take(self, state: AccessState) -> None:
        """Put the state in force, and tell the listeners of what is revoked now and was not.

        A revocation whose end was moved is told again: it may have run out in between, and let
        sockets in.
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
    """The subject's limits, the default's where it has none of its own."""
    given = msgspec.structs.asdict(own)
    return default._replace(**{name: value for name, value in given.items() if value is not None})


def default_limits(config: Config) -> SubjectLimits:
    """What a subject may take of which the operators said nothing."""
    return SubjectLimits(
        config.rate_per_s,
        config.rate_burst,
        config.ws_subject_connections,
        config.ws_subscriptions,
    )
