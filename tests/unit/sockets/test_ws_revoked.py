"""A JWT that is revoked, or replaced by one with fewer scopes, at the worst moment."""

from __future__ import annotations

import msgspec

from api.auth.access import Access, AccessState, RevocationEntry, SubjectLimits
from api.auth.jwt import Claims, TokenRefused
from api.auth.ratelimit import RateDecision
from tests.unit.sockets.support import A, Node


class Revoking(Node):
    """A node whose operators revoke `revoke_at_charge` while a handshake's rates are checked."""

    def __init__(self) -> None:
        super().__init__()
        self.access = Access(SubjectLimits(10, 10), lambda: self.now / 1_000)
        self.access.listen(lambda each: self.hub.close_where(sub=each.value, code=4003, reason=""))
        self.revoke_at_charge: str | None = None

    async def verify(self, token: str) -> Claims:
        claims = await super().verify(token)
        if token.endswith(":narrow"):
            claims = msgspec.structs.replace(claims, scopes=frozenset({"ws:connect"}))
        if self.access.refuses(claims, self.now / 1_000):
            raise TokenRefused("token_revoked", "The token was revoked.")
        return claims

    async def charge(self, subject: str | None, cost: int) -> RateDecision:
        if subject == self.revoke_at_charge and subject is not None:
            self.access.take(AccessState(1, [RevocationEntry("sub", subject)], {}))
        return await super().charge(subject, cost)


async def test_a_token_revoked_between_check_and_admission_is_refused() -> None:
    node = Revoking()
    node.revoke_at_charge = "alice"
    client = node.client()
    assert not await client.session.authenticate("alice")
    assert client.connection.claims is None
    node.run(1_000)
    assert client.socket.closed is not None
    assert client.socket.closed[0] == 4003
    (error,) = client.messages("error")
    assert error["code"] == "token_revoked"
    other = node.client()
    assert await other.session.authenticate("bob")


async def test_a_newer_token_without_the_scope_ends_the_subscriptions() -> None:
    node = Revoking()
    node.beat()
    client = await node.client().enter("alice")
    await client.subscribe("token_stats", A)
    await client.subscribe("overview")
    await client.subscribe("status")
    node.run(200)
    client.messages()
    await client.send(method="auth", token="alice:narrow", req_id=1)
    node.run(100)
    acks = client.messages("ack")
    ended = {each["channel"]: each["error"]["code"] for each in acks if "channel" in each}
    assert ended == {"token_stats": "scope_missing", "overview": "scope_missing"}
    assert acks[-1]["method"] == "auth"
    assert [topic.key.channel for topic in client.connection.subscriptions] == ["status"]
    node.trade(A)
    node.run(1_000)
    assert not [each for each in client.messages("update") if each["channel"] != "status"]
