"""REST by Django's test client, with a board filled with real structs."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

import pytest

from api import services as services_module
from api.auth.demo_issuer import issue
from api.auth.keys import KeyFile
from tests.unit.api.rest_site import IBC, NOW_S, Site, body, filled, ids, problem
from tests.unit.api.samples import AS_OF, Owner


async def test_overview_sums_exactly_over_all_matching_tokens(site: Site) -> None:
    filled(site)
    answer = body(await site.get("/api/overview?window=5m&limit=1"))
    assert answer["totals"] == {
        "tokens": 4,
        "trades": 16,
        "buys": 5,
        "sells": 11,
        "volume_usd": "19.833335",
        "buy_volume_usd": "12.500001",
        "sell_volume_usd": "7.333334",
    }
    assert [each["token_id"] for each in answer["tokens"]] == ["ethereum:0xaa"]
    assert (answer["window"], answer["stale"]) == ("5m", False)
    assert answer["as_of"] == AS_OF + 2


async def test_overview_lists_whole_rows(site: Site) -> None:
    filled(site)
    listed = body(await site.get("/api/overview?q=ibc"))["tokens"]
    alone = body(await site.get(f"/api/tokens/{IBC}/stats"))
    assert listed == [alone]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("", ["0xaa", "ibc", "0xbb", "0xcc"], id="by volume, highest first"),
        pytest.param("order=asc", ["0xcc", "0xbb", "ibc", "0xaa"], id="lowest first"),
        pytest.param("sort=trades", ["ibc", "0xaa", "0xbb", "0xcc"], id="ties by token id"),
        pytest.param(
            "sort=trades&order=asc", ["0xcc", "0xaa", "0xbb", "ibc"], id="ties alike when ascending"
        ),
        pytest.param("sort=traders", ["0xaa", "0xbb", "ibc", "0xcc"], id="by traders"),
        pytest.param("sort=buys", ["0xaa", "0xbb", "0xcc", "ibc"], id="by buys"),
        pytest.param("sort=sells", ["ibc", "0xaa", "0xbb", "0xcc"], id="by sells"),
        pytest.param("sort=net_volume_usd", ["0xaa", "0xbb", "0xcc", "ibc"], id="by net volume"),
        pytest.param(
            "sort=price_change_pct", ["0xaa", "0xcc", "0xbb", "ibc"], id="unknown comes last"
        ),
        pytest.param(
            "sort=price_change_pct&order=asc",
            ["0xbb", "0xcc", "0xaa", "ibc"],
            id="unknown comes last when ascending",
        ),
        pytest.param("chain=ethereum", ["0xaa", "0xbb"], id="one chain"),
        pytest.param("chain=solana", [], id="a chain without tokens"),
        pytest.param("min_trades=3", ["0xaa", "ibc", "0xbb"], id="least trades"),
        pytest.param("min_volume_usd=2.500001", ["0xaa", "ibc", "0xbb"], id="least volume, equal"),
        pytest.param("min_volume_usd=2.500002", ["0xaa", "ibc"], id="least volume, above"),
        pytest.param("min_volume_usd=0.0000005", ["0xaa", "ibc", "0xbb", "0xcc"], id="below micro"),
        pytest.param("q=aa", ["0xaa", "0xcc"], id="part of a symbol or id, in any case"),
        pytest.param("q=IBC/27394f", ["ibc"], id="part of an id"),
        pytest.param("limit=2", ["0xaa", "ibc"], id="limit"),
    ],
)
async def test_overview_parameters(site: Site, query: str, expected: list[str]) -> None:
    filled(site)
    found = ids(await site.get(f"/api/overview?{query}"))
    assert [each.partition(":")[2].partition("/")[0] for each in found] == expected


@pytest.mark.parametrize(
    ("query", "parameter", "said"),
    [
        pytest.param("window=7m", "window", "5m, 1h, 24h", id="a window that is not kept"),
        pytest.param("sort=volume", "sort", "did you mean volume_usd?", id="nearly a sort"),
        pytest.param("sort=price", "sort", "price_change_pct", id="unknown sort"),
        pytest.param("order=up", "order", "asc, desc", id="unknown order"),
        pytest.param("limit=0", "limit", "greater than or equal to 1", id="limit below"),
        pytest.param("limit=501", "limit", "less than or equal to 500", id="limit above"),
        pytest.param("limit=many", "limit", "integer", id="limit is no number"),
        pytest.param("min_trades=-1", "min_trades", "equal to 0", id="trades below 0"),
        pytest.param("min_volume_usd=x", "min_volume_usd", "decimal", id="volume is no number"),
        pytest.param("min_volume_usd=NaN", "min_volume_usd", "finite", id="volume is NaN"),
        pytest.param("min_volume_usd=1e400", "min_volume_usd", "less than", id="volume is huge"),
        pytest.param("chain=Ether%20eum", "chain", "match pattern", id="chain with a blank"),
        pytest.param("q=" + "x" * 129, "q", "128", id="long text"),
    ],
)
async def test_bad_parameter(site: Site, query: str, parameter: str, said: str) -> None:
    document = problem(await site.get(f"/api/overview?{query}"), 422, "parameter_invalid")
    assert document["parameter"] == parameter
    assert said in document["detail"]


async def test_every_bad_parameter_is_named(site: Site) -> None:
    response = await site.get("/api/overview?limit=0&sort=x&order=y")
    document = problem(response, 422, "parameter_invalid")
    assert {each["parameter"] for each in document["errors"]} == {"limit", "sort", "order"}
    allowed = {each["parameter"]: each.get("allowed") for each in document["errors"]}
    assert allowed["order"] == ["asc", "desc"]


async def test_an_empty_board_says_so(site: Site) -> None:
    answer = body(await site.get("/api/overview"))
    assert (answer["as_of"], answer["stale"], answer["tokens"]) == (None, True, [])
    response = await site.get("/api/tokens/ethereum:0xaa/stats")
    problem(response, 503, "board_not_ready")
    assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    "token_id",
    [
        "ethereum:0xaa",
        IBC,
        "cosmos:factory/osmo1/stats",
        "stellar:USDC-G%2FA",
        "ton:EQ+a=b@c",
        "sui:0x2::sui::SUI",
    ],
)
@pytest.mark.parametrize("safe", [":/@+=", ""], ids=["plain", "percent-encoded"])
async def test_any_token_id_finds_its_row(site: Site, token_id: str, safe: str) -> None:
    owner = Owner()
    owner.trade(token_id)
    owner.trade("ethereum:0xdd")
    site.hydrate(owner)
    answer = body(await site.get(f"/api/tokens/{quote(token_id, safe=safe)}/stats"))
    assert (answer["token_id"], answer["seq"]) == (token_id, 1)
    assert list(answer["windows"]) == ["5m", "1h", "24h"]


async def test_an_unknown_token_is_not_found(site: Site) -> None:
    filled(site)
    problem(await site.get("/api/tokens/ethereum:0xnone/stats"), 404, "token_not_found")
    problem(await site.get("/api/tokens/x/y:z/stats"), 422, "token_invalid")


async def test_stats_have_an_etag_of_epoch_and_seq(site: Site) -> None:
    owners = filled(site)
    path = "/api/tokens/ethereum:0xbb/stats"
    first = await site.get(path)
    assert first.headers["ETag"] == '"1-1"'
    unchanged = await site.get(path, **{"If-None-Match": 'W/"0-0", "1-1"'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["ETag"] == '"1-1"'
    site.board.patch(owners[0].trade("ethereum:0xbb"), site.now_ms)
    changed = await site.get(path, **{"If-None-Match": '"1-1"'})
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"1-3"')


async def test_staleness_shows_and_changes_the_etag(site: Site) -> None:
    owners = filled(site)
    path = "/api/tokens/ethereum:0xbb/stats"
    fresh = await site.get(path)
    assert body(fresh)["stale"] is False
    site.now_ms += 3_001
    site.board.heartbeat(owners[1].heartbeat(site.now_ms), site.now_ms)
    stale = await site.get(path, **{"If-None-Match": fresh.headers["ETag"]})
    assert stale.status_code == 200
    assert body(stale)["stale"] is True
    assert stale.headers["ETag"] != fresh.headers["ETag"]
    overview = body(await site.get("/api/overview"))
    assert overview["stale"] is True
    assert {each["token_id"]: each["stale"] for each in overview["tokens"]} == {
        "ethereum:0xbb": True,
        IBC: True,
        "ethereum:0xaa": False,
        "base:0xcc": False,
    }


async def test_status_lists_every_partition(site: Site) -> None:
    filled(site)
    site.now_ms += 250
    answer = body(await site.get("/api/status"))
    assert [each["partition"] for each in answer["partitions"]] == [0, 1]
    second = answer["partitions"][1]
    assert (second["epoch"], second["seq"], second["next_offset"]) == (1, 2, 2)
    assert (second["lag"], second["watermark"], second["state"]) == (3, AS_OF, "live")
    assert (second["stale"], second["age_ms"], second["in_sync"]) == (False, 250, True)
    assert answer["nats"].startswith("NATS at 127.0.0.1:4222 is unreachable")


@pytest.mark.parametrize("path", ["/api/overview", f"/api/tokens/{IBC}/stats", "/api/status"])
async def test_everything_under_api_asks_for_a_token(site: Site, path: str) -> None:
    filled(site)
    response = await site.client.get(path)
    problem(response, 401, "token_missing")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="swaps"'


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Basic c29tZTpvbmU=", "token_missing"),
        ("Bearer", "token_missing"),
        ("Bearer ", "token_missing"),
        ("Bearer a.b.c", "token_malformed"),
        ("Bearer {good} {good}", "token_malformed"),
        ("Bearer eyJhbGciOiJub25lIn0.e30.", "token_algorithm"),
        ("{good}", "token_missing"),
    ],
)
async def test_a_bad_authorization_header(site: Site, header: str, code: str) -> None:
    sent = header.format(good=site.token())
    response = await site.client.get("/api/overview", headers={"Authorization": sent})
    problem(response, 401, code)
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert site.token() not in response.content.decode()


async def test_the_claim_at_fault_is_named(site: Site) -> None:
    bad = issue(
        site._key,
        subject="",
        issuer="swaps-demo",
        audience="swaps",
        scope="",
        issued_at=NOW_S,
        ttl_ms=60_000,
    )
    response = await site.client.get("/api/overview", headers={"Authorization": f"bearer {bad}"})
    assert problem(response, 401, "token_claim")["claim"] == "sub"


@pytest.mark.parametrize(
    ("path", "scope", "needed"),
    [
        ("/api/overview", "ops:read", "stats:read"),
        ("/api/tokens/ethereum:0xaa/stats", "", "stats:read"),
        ("/api/status", "stats:read", "ops:read"),
    ],
)
async def test_a_missing_scope_is_named(site: Site, path: str, scope: str, needed: str) -> None:
    filled(site)
    response = await site.get(path, Authorization=f"Bearer {site.token(scope)}")
    assert problem(response, 403, "scope_missing")["scope"] == needed
    assert f'scope="{needed}"' in response.headers["WWW-Authenticate"]


async def test_without_a_key_nobody_is_let_in(site: Site) -> None:
    fault = "JWT_PUBLIC_KEY_FILE is not set"
    site.parts = replace(site.parts, keys=KeyFile(None))
    services_module.services.cache_clear()
    services_module.build = lambda _config: site.parts  # type: ignore[assignment] # put back by the fixture
    problem(await site.get("/api/overview"), 503, "auth_unavailable")
    problem(await site.client.get("/api/nothing"), 503, "auth_unavailable")
    assert fault in body(await site.client.get("/readyz"))["reasons"]


@pytest.mark.parametrize("path", ["/api/nothing", "/api/tokens/x", "/api/overview/more"])
async def test_an_unknown_route_is_a_problem(site: Site, path: str) -> None:
    problem(await site.get(path), 404, "route_not_found")
    problem(await site.client.get(path), 401, "token_missing")


@pytest.mark.parametrize("path", ["/api/", "/api"])
async def test_the_root_of_the_api_is_a_problem(site: Site, path: str) -> None:
    problem(await site.get(path), 404, "route_not_found")


async def test_another_method_is_a_problem_that_names_the_allowed(site: Site) -> None:
    response = await site.client.post("/api/overview")
    problem(response, 405, "method_not_allowed")
    assert response.headers["Allow"] == "GET, HEAD"


async def test_a_fault_of_ours_is_a_problem_without_details(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(site.parts.overview, "page", broken)
    response = await site.get("/api/overview")
    problem(response, 500, "internal_error")
    assert b"secret" not in response.content


async def test_a_foreign_host_is_refused_but_a_probe_is_not(site: Site) -> None:
    problem(await site.get("/api/overview", Host="evil.example"), 400, "host_not_allowed")
    assert (await site.get("/healthz", Host="10.0.0.7")).status_code == 200


async def test_answers_are_not_stored_by_caches_of_others(site: Site) -> None:
    filled(site)
    response = await site.get("/api/overview")
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_openapi_describes_the_answers(site: Site) -> None:
    schema = body(await site.get("/api/openapi.json"))
    assert set(schema["paths"]) == {
        "/api/overview",
        "/api/tokens/stats",
        "/api/tokens/{token_id}/stats",
        "/api/tokens/{token_id}/trades",
        "/api/tokens/{token_id}/candles",
        "/api/tokens/{token_id}/daily",
        "/api/status",
        "/api/ingest/swaps",
    }
    operations = {
        each["operationId"]: each["tags"]
        for methods in schema["paths"].values()
        for each in methods.values()
    }
    assert operations == {
        "overview": ["live"],
        "tokens_stats": ["live"],
        "token_stats": ["live"],
        "token_trades": ["history"],
        "token_candles": ["history"],
        "token_days": ["history"],
        "status": ["operations"],
        "ingest_swaps": ["ingest"],
    }
    overview = schema["paths"]["/api/overview"]["get"]
    (cursor,) = (each for each in overview["parameters"] if each["name"] == "cursor")
    assert "may come again" in cursor["description"], "as docs/rest.md says"
    parameters = {each["name"]: each["schema"] for each in overview["parameters"]}
    assert parameters["limit"]["maximum"] == 500
    assert "price_change_pct" in parameters["sort"]["enum"]
    answer = overview["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/Overview"}
    fields = schema["components"]["schemas"]["TokenRow"]["properties"]
    assert {"next_offset", "windows", "flags"} <= set(fields)


async def test_healthz_needs_nothing(site: Site) -> None:
    response = await site.client.get("/healthz")
    assert (response.status_code, body(response)) == (200, {"alive": True})


async def test_readyz_names_what_is_missing(site: Site) -> None:
    response = await site.client.get("/readyz")
    assert response.status_code == 503
    answer = body(response)
    assert answer["ready"] is False
    assert answer["reasons"][0].startswith("NATS at 127.0.0.1:4222 is unreachable")
    assert "no partition is known yet: no aggregator sends heartbeats" in answer["reasons"]


async def test_readyz_names_rebuilding_stalled_silent_and_unhydrated(site: Site) -> None:
    rebuilding, stalled, silent = (Owner(partition=number, partitions=4) for number in range(3))
    rebuilding.state = "rebuilding"
    rebuilding.next_offset = 40
    site.hydrate(silent, stalled, silent, silent)
    site.now_ms += 4_200
    stalled.state = "stalled"
    stalled.degraded = ["Redis is unreachable"]
    site.board.heartbeat(rebuilding.heartbeat(), site.now_ms)
    site.board.heartbeat(stalled.heartbeat(), site.now_ms)
    answer = body(await site.client.get("/readyz"))
    assert [each for each in answer["reasons"] if each.startswith("partition")] == [
        "partition 0 is rebuilding: offset 40 of 45",
        "partition 0 is not hydrated",
        "partition 1 is stalled: its owner cannot reach an engine",
        "partition 2 is stale: no heartbeat for 4.2 s",
        "partition 3 is stale: no heartbeat ever",
        "partition 3 is not hydrated",
    ]
    assert answer["degraded"][0] == "partition 1: Redis is unreachable"
    assert [each["state"] for each in answer["partitions"]] == [
        "rebuilding",
        "stalled",
        "silent",
        "unknown",
    ]
