"""Pages of the overview, batches, registry entries, and the rules of HTTP."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable
from urllib.parse import quote, urlencode

import msgspec
import pytest
from django.contrib.staticfiles import finders
from django.core import signing
from django.http import HttpResponse

from aggregator.contracts.intervals import FLUSH_MS
from aggregator.contracts.sources import SourceStatus
from aggregator.contracts.stats import Tallies
from aggregator.runtime.version import VERSION
from api.board.listing import Listing
from api.http.batch import ids_of
from api.http.compression import takes_gzip
from tests.unit.api.rest_site import IBC, Site, body, filled, ids, problem
from tests.unit.api.samples import AS_OF, Owner, row, window

ORIGIN = "https://screener.example"
STATS = "/api/tokens/ethereum:0xbb/stats"


def many(site: Site, count: int) -> Owner:
    owner = Owner()
    for number in range(count):
        owner.trade(f"chain:t{number:03d}")
    site.hydrate(owner)
    return owner


def retrade(site: Site, owner: Owner, token_id: str, micros: int) -> None:
    patch = owner.trade(token_id)
    moved = row(
        token_id,
        seq=patch.seq,
        next_offset=patch.next_offset,
        stats=window(buy_micros=micros, buys=1),
    )
    owner.rows[token_id] = moved
    site.board.patch(moved, site.now_ms)


async def page(site: Site, cursor: str | None, **params: object) -> tuple[list[str], str | None]:
    query = {"limit": 7, **params} | ({"cursor": cursor} if cursor else {})
    answer = await site.get(f"/api/overview?{urlencode(query)}")
    return ids(answer), body(answer)["next_cursor"]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["volume_usd", "trades", "price_change_pct", "last_trade_at"])
async def test_pages_are_the_whole_list_in_order(site: Site, sort: str, order: str) -> None:
    many(site, 31)
    whole = ids(await site.get(f"/api/overview?sort={sort}&order={order}&limit=500"))
    assert len(whole) == 31
    cursor, pages = None, []
    while not pages or cursor is not None:
        found, cursor = await page(site, cursor, sort=sort, order=order)
        pages.append(found)
    assert [token_id for each in pages for token_id in each] == whole
    assert [len(each) for each in pages] == [7, 7, 7, 7, 3]


async def test_a_full_last_page_has_no_cursor(site: Site) -> None:
    many(site, 14)
    _, cursor = await page(site, None)
    _, cursor = await page(site, cursor)
    assert cursor is None


@pytest.mark.parametrize("seed", range(5))
async def test_tokens_that_stay_are_on_one_page_however_others_move(site: Site, seed: int) -> None:
    draw = random.Random(seed)
    owner = many(site, 60)
    movers = [f"chain:t{number:03d}" for number in range(0, 60, 3)]
    steady = [token_id for token_id in owner.rows if token_id not in movers]
    cursor, seen = None, []
    while not seen or cursor is not None:
        found, cursor = await page(site, cursor)
        seen += found
        for token_id in draw.sample(movers, 8):
            retrade(site, owner, token_id, draw.randrange(1, 80_000_000))
    kept = [token_id for token_id in seen if token_id not in movers]
    assert kept == sorted(
        steady, key=lambda each: -float(owner.rows[each].windows["5m"].volume_usd)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"sort": "trades"},
        {"order": "asc"},
        {"window": "5m"},
        {"q": "t"},
        {"min_trades": 1},
        {"chain": "chain"},
        {"min_volume_usd": "0.5"},
    ],
    ids=str,
)
async def test_a_cursor_works_with_its_own_query_only(site: Site, change: dict[str, str]) -> None:
    many(site, 20)
    _, cursor = await page(site, None)
    assert cursor is not None
    query = urlencode({"cursor": cursor, **change})
    document = problem(await site.get(f"/api/overview?{query}"), 422, "parameter_invalid")
    assert document["parameter"] == "cursor"


async def test_a_cursor_works_with_another_limit(site: Site) -> None:
    many(site, 20)
    first, cursor = await page(site, None)
    second, _ = await page(site, cursor, limit=500)
    assert len(second) == 13
    assert not set(first) & set(second)


@pytest.mark.parametrize(
    "forge",
    [
        lambda _: "",
        lambda _: "AAAA",
        lambda _: "x" * 1_000,
        lambda _: "W2ZhbHNlLDAsInQiXQ",
        lambda c: c[:-1],
        lambda c: c + "A",
        lambda c: "A" + c[1:],
        lambda c: c.replace(":", ";"),
        lambda _: "'; DROP TABLE raw_swaps; --",
        lambda _: "\x00",
        lambda _: "é漢",
    ],
)
async def test_a_forged_cursor_is_refused(site: Site, forge: Callable[[str], str]) -> None:
    many(site, 20)
    _, cursor = await page(site, None)
    assert cursor is not None
    query = urlencode({"limit": 7, "cursor": forge(cursor)})
    document = problem(await site.get(f"/api/overview?{query}"), 422, "parameter_invalid")
    assert document["parameter"] == "cursor"


async def test_the_overview_refuses_a_cursor_of_trades(site: Site) -> None:
    many(site, 20)
    other = signing.dumps([False, 0, "x"], salt="trades chain:t001 None")
    problem(await site.get(f"/api/overview?cursor={other}"), 422, "parameter_invalid")


async def test_the_overview_has_a_tag(site: Site) -> None:
    owners = filled(site)
    first = await site.get("/api/overview")
    again = await site.get("/api/overview", **{"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    site.board.patch(owners[0].trade("ethereum:0xbb"), site.now_ms)
    site.now_ms += FLUSH_MS - 1
    shared = await site.get("/api/overview", **{"If-None-Match": first.headers["ETag"]})
    assert shared.status_code == 304, "numbers are taken over once a flush"
    site.now_ms += 1
    changed = await site.get("/api/overview", **{"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200


async def test_a_batch_is_in_the_order_asked_for(site: Site) -> None:
    filled(site)
    query = urlencode({"ids": [IBC, "base:0xnone", "ethereum:0xaa", IBC]}, doseq=True)
    answer = body(await site.get(f"/api/tokens/stats?{query}"))
    assert [each["token_id"] for each in answer["tokens"]] == [IBC, "ethereum:0xaa"]
    assert answer["missing"] == ["base:0xnone"]
    with_commas = quote(f"{IBC},base:0xnone,ethereum:0xaa")
    assert body(await site.get(f"/api/tokens/stats?ids={with_commas}")) == answer
    alone = body(await site.get(f"/api/tokens/{IBC}/stats"))
    assert answer["tokens"][0] == alone


LP = "sui:0x2::pool::LP<0xa::a::A,0xb::b::B>"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a:1,b:2"], ["a:1", "b:2"]),
        (["a:1,2,b:3"], ["a:1,2,b:3"]),
        (["a:x,y"], ["a:x,y"]),
        (["a:x,y", "b:2"], ["a:x,y", "b:2"]),
        (["a:1", "a:1", "b:2,a:1"], ["a:1", "b:2"]),
        (["a:1,"], ["a:1"]),
        ([""], []),
        (["sui:0x2::sui::SUI,a:1"], ["sui:0x2::sui::SUI", "a:1"]),
        ([LP], [LP]),
        ([f"{LP},a:1,{LP}"], [LP, "a:1"]),
        (["sui:0x02::pool::LP<0x0A::a::A, 0xb::b::B>"], [LP]),
    ],
)
def test_commas_separate_ids_and_belong_to_tokens(given: list[str], expected: list[str]) -> None:
    assert ids_of(given, {"a:x,y", "a:1,2,b:3"}.__contains__) == expected


async def test_malformed_ids_are_named(site: Site) -> None:
    filled(site)
    query = "ids=ethereum:0xaa,foo&ids=Base:0xcc"
    document = problem(await site.get(f"/api/tokens/stats?{query}"), 422, "token_invalid")
    assert [(each["parameter"], each["id"]) for each in document["errors"]] == [
        ("ids", "foo"),
        ("ids", "Base:0xcc"),
    ]
    assert "lower case: base" in document["errors"][1]["detail"]


CHECKSUMMED = "ethereum:0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
SPELLINGS = [
    (CHECKSUMMED, CHECKSUMMED.lower()),
    ("sui:0x0002::sui::SUI", "sui:0x2::sui::SUI"),
    ("sui:0x2::p::LP<0x0A::a::A, 0xB::b::B>", "sui:0x2::p::LP<0xa::a::A,0xb::b::B>"),
]


@pytest.mark.parametrize(("asked", "token_id"), SPELLINGS)
async def test_a_token_is_found_by_any_spelling(site: Site, asked: str, token_id: str) -> None:
    owner = Owner()
    owner.trade(token_id)
    site.hydrate(owner)
    found = await site.get(f"/api/tokens/{quote(asked, safe='')}/stats")
    assert body(found)["token_id"] == token_id
    batch = body(await site.get(f"/api/tokens/stats?{urlencode({'ids': asked})}"))
    assert ([each["token_id"] for each in batch["tokens"]], batch["missing"]) == ([token_id], [])


@pytest.mark.parametrize(("asked", "token_id"), SPELLINGS)
async def test_the_page_of_a_token_is_at_its_canonical_id(
    site: Site, asked: str, token_id: str
) -> None:
    answer = await site.client.get(f"/tokens/{quote(asked, safe='')}?interval=1h")
    address = f"/tokens/{quote(token_id, safe=':')}?interval=1h"
    assert (answer.status_code, answer.headers["Location"]) == (302, address)
    for there in (quote(token_id, safe=":"), "foo", "Ethereum:WETH"):
        assert (await site.client.get(f"/tokens/{there}")).status_code == 200


async def test_base58_in_another_case_is_another_token(site: Site) -> None:
    owner = Owner()
    owner.trade("solana:So11aB")
    site.hydrate(owner)
    assert (await site.get("/api/tokens/solana:So11aB/stats")).status_code == 200
    problem(await site.get("/api/tokens/solana:so11ab/stats"), 404, "token_not_found")


@pytest.mark.parametrize(
    ("token_id", "said"),
    [("foo", "chain:token"), ("Ethereum:WETH", "lower case: ethereum"), ("a:b%20c", "white space")],
)
@pytest.mark.parametrize("route", ["stats", "trades", "candles", "daily"])
async def test_a_malformed_id(site: Site, route: str, token_id: str, said: str) -> None:
    filled(site)
    token = f"Bearer {site.token('stats:read history:read')}"
    answer = await site.get(f"/api/tokens/{token_id}/{route}", Authorization=token)
    document = problem(answer, 422, "token_invalid")
    assert said in document["detail"]
    assert document["parameter"] == "token_id"


@pytest.mark.parametrize(
    ("path", "parameter", "nearest"),
    [
        ("/api/overview?min_volum_usd=1", "min_volum_usd", "min_volume_usd"),
        ("/api/overview?Limit=1", "Limit", "limit"),
        ("/api/overview?zzz=1", "zzz", None),
        ("/api/tokens/stats?ids=a:1&id=a:2", "id", "ids"),
        (f"{STATS}?window=5m", "window", None),
        ("/api/status?x=", "x", None),
        ("/api/openapi.json?x=", "x", None),
        ("/api/tokens/a:1/trades?limt=3", "limt", "limit"),
        ("/api/tokens/a:1/candles?intervall=1m", "intervall", "interval"),
        ("/api/tokens/a:1/daily?form=3", "form", "from"),
    ],
)
async def test_an_unknown_parameter_is_refused_with_the_nearest(
    site: Site, path: str, parameter: str, nearest: str | None
) -> None:
    filled(site)
    token = f"Bearer {site.token('stats:read history:read ops:read')}"
    document = problem(await site.get(path, Authorization=token), 422, "parameter_invalid")
    (error,) = document["errors"]
    assert (error["parameter"], error.get("nearest")) == (parameter, nearest)
    assert nearest is None or nearest in document["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "ids=",
        "&".join(f"ids=a:{n}" for n in range(101)),
        "ids=" + ",".join(f"a:{n}" for n in range(101)),
    ],
    ids=["absent", "empty", "101 repeated", "101 with commas"],
)
async def test_a_bad_batch_is_refused(site: Site, query: str) -> None:
    filled(site)
    document = problem(await site.get(f"/api/tokens/stats?{query}"), 422, "parameter_invalid")
    assert document["parameter"] == "ids"


async def test_a_batch_of_a_hundred(site: Site) -> None:
    many(site, 100)
    query = ",".join(f"chain:t{number:03d}" for number in range(100))
    assert len(body(await site.get(f"/api/tokens/stats?ids={query}"))["tokens"]) == 100
    repeated = urlencode({"ids": query.split(",")}, doseq=True)
    assert len(body(await site.get(f"/api/tokens/stats?{repeated}"))["tokens"]) == 100


async def test_a_node_that_does_not_know_all_calls_no_token_missing(site: Site) -> None:
    problem(await site.get("/api/tokens/stats?ids=a:1"), 503, "board_not_ready")


LISTED = Listing(version=9, symbol="BeeBee", name="Bee", decimals=8, flags=("spam", "verified"))


async def test_registry_entries_are_shown_with_the_numbers(site: Site) -> None:
    owners = filled(site)
    before = body(await site.get(STATS))
    assert (before["symbol"], before["name"], before["flags"]) == ("BBB", None, [])
    assert site.board.take_listings({"ethereum:0xbb": LISTED}) == {"ethereum:0xbb"}
    answer = await site.get(STATS)
    listed = body(answer)
    said = {"symbol": "BeeBee", "name": "Bee", "decimals": 8, "flags": ["spam", "verified"]}
    assert listed == before | said
    assert answer.headers["ETag"] == '"1-1-r9"'
    assert body(await site.get("/api/overview?q=beebee"))["tokens"] == [listed]
    site.board.patch(owners[0].trade("ethereum:0xbb"), site.now_ms)
    traded = body(await site.get(STATS))
    assert (traded["seq"], traded["flags"], traded["symbol"]) == (3, ["spam", "verified"], "BeeBee")
    site.board.take_listings({})
    assert body(await site.get(STATS))["flags"] == []
    assert (await site.get(STATS)).headers["ETag"] == '"1-3"'


async def test_a_hidden_token_is_nowhere_and_comes_back(site: Site) -> None:
    owners = filled(site)
    changed: list[str] = []
    site.board.listen(changed.append)
    site.board.take_listings({"ethereum:0xbb": Listing(version=1, hidden=True)})
    assert changed == ["ethereum:0xbb"]
    problem(await site.get(STATS), 404, "token_not_found")
    overview = body(await site.get("/api/overview"))
    assert "ethereum:0xbb" not in [each["token_id"] for each in overview["tokens"]]
    assert overview["totals"]["tokens"] == 3
    batch = body(await site.get("/api/tokens/stats?ids=ethereum:0xbb"))
    assert batch == {"tokens": [], "missing": ["ethereum:0xbb"]}
    for past in ("trades", "candles", "daily"):
        token = site.token("history:read")
        path = f"/api/tokens/ethereum:0xbb/{past}"
        answer = await site.get(path, Authorization=f"Bearer {token}")
        problem(answer, 404, "token_not_found")
    site.board.patch(owners[0].trade("ethereum:0xbb"), site.now_ms)
    problem(await site.get(STATS), 404, "token_not_found")
    published = site.board.published("ethereum:0xbb")
    assert published is not None and published.seq == 3, "operators still see it"
    site.board.take_listings({})
    assert body(await site.get(STATS))["seq"] == 3, "with what came meanwhile"


async def test_a_hidden_token_that_is_dropped_or_moved_leaves_no_trace(site: Site) -> None:
    owners = filled(site)
    site.board.take_listings({"ethereum:0xbb": Listing(version=1, hidden=True)})
    site.board.replace(0, [each for each in owners[0].rows.values() if each.token_id == IBC])
    assert site.board.published("ethereum:0xbb") is None
    site.board.take_listings({})
    problem(await site.get(STATS), 404, "token_not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/api/overview",
        STATS,
        "/api/status",
        "/healthz",
        "/readyz",
        "/api/openapi.json",
        "/api/docs",
        "/api/tokens/stats?ids=ethereum:0xbb",
        "/api/nothing",
    ],
)
async def test_head_is_get_without_a_body(site: Site, path: str) -> None:
    filled(site)
    headers = {"Authorization": f"Bearer {site.token()}"}
    got: HttpResponse = await site.client.get(path, headers=headers)
    head: HttpResponse = await site.client.head(path, headers=headers)
    assert (head.status_code, head.content) == (got.status_code, b"")
    for name in ("Content-Type", "Content-Length", "ETag"):
        assert head.headers.get(name) == got.headers.get(name)
    assert int(head.headers["Content-Length"]) > 0


async def test_long_answers_are_compressed_where_the_client_takes_it(site: Site) -> None:
    many(site, 40)
    plain = await site.get("/api/overview")
    packed = await site.get("/api/overview", **{"Accept-Encoding": "br, gzip;q=0.8"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) == len(packed.content) < len(plain.content) / 4
    assert gzip.decompress(packed.content) == plain.content
    assert (
        "Accept-Encoding" in packed.headers["Vary"] and "Accept-Encoding" in plain.headers["Vary"]
    )
    assert packed.headers["ETag"] == f"W/{plain.headers['ETag']}"
    again = await site.get("/api/overview", **{"If-None-Match": packed.headers["ETag"]})
    assert again.status_code == 304
    small = await site.get("/api/nothing", **{"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in small.headers


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        ("gzip", True),
        ("GZIP;q=0.5", True),
        ("*", True),
        ("deflate, gzip ; q=1", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.0", False),
        ("x-gzipped", False),
    ],
)
def test_who_takes_gzip(accepted: str, takes: bool) -> None:
    assert takes_gzip(accepted) is takes


async def test_a_listed_origin_may_read_and_another_may_not(make_site: Callable[..., Site]) -> None:
    site = make_site(CORS_ALLOWED_ORIGINS=ORIGIN)
    filled(site)
    for path in (STATS, "/api/nothing"):
        answer = await site.get(path, Origin=ORIGIN)
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
        assert "Origin" in answer.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
    for origin in (
        "https://evil.example",
        "null",
        f"{ORIGIN}.evil.example",
        "http://screener.example",
    ):
        answer = await site.get(STATS, Origin=origin)
        assert answer.status_code == 200
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Origin" in answer.headers["Vary"]
    refused: HttpResponse = await site.client.get(STATS, headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN, "a page can read why"


async def test_a_preflight_asks_for_no_token(make_site: Callable[..., Site]) -> None:
    site = make_site(CORS_ALLOWED_ORIGINS=ORIGIN)
    asked = {
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    allowed: HttpResponse = await site.client.options(STATS, headers={"Origin": ORIGIN, **asked})
    assert (allowed.status_code, allowed.content) == (204, b"")
    assert "Authorization" in allowed.headers["Access-Control-Allow-Headers"]
    assert allowed.headers["Access-Control-Allow-Origin"] == ORIGIN
    foreign: HttpResponse = await site.client.options(
        STATS, headers={"Origin": "https://evil.example", **asked}
    )
    problem(foreign, 405, "method_not_allowed")
    assert "Access-Control-Allow-Origin" not in foreign.headers


async def test_no_origin_may_read_by_default(site: Site) -> None:
    filled(site)
    answer = await site.get(STATS, Origin=ORIGIN)
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_status_has_owners_snapshots_rates_sources_and_versions(site: Site) -> None:
    owners = filled(site)
    source = SourceStatus("eth", "evm", "ethereum", "stopped", AS_OF, "the wrong chain")
    site.parts.feed.sources.record(source, site.now_ms + 10_000)
    for seconds, late in ((0, 0), (10, 5)):
        beat = msgspec.structs.replace(
            owners[0].heartbeat(),
            owner="host:1",
            version="0.1.0",
            snapshot_age_ms=1_500,
            tallies=Tallies(records=100 * seconds, late=late),
        )
        site.now_ms += seconds * 1_000
        site.board.heartbeat(beat, site.now_ms)
        site.parts.feed.rates.record(beat, site.now_ms)
    answer = body(await site.get("/api/status"))
    first = answer["partitions"][0]
    assert (first["owner"], first["version"], first["snapshot_age_ms"]) == (
        "host:1",
        "0.1.0",
        1_500,
    )
    a_second = {"records": 100.0, "duplicates": 0.0, "late": 0.5, "dead_letters": 0.0}
    a_second["misplaced"] = 0.0
    assert answer["rates"] == [{"partition": 0, "over_ms": 10_000, **a_second}]
    assert answer["sources"] == [msgspec.to_builtins(source)]
    assert "source eth: stopped: the wrong chain" in answer["degraded"]
    assert answer["versions"]["web"] == VERSION
    assert answer["versions"]["aggregators"] == ["0.1.0"]
    assert answer["ready"] is False and answer["reasons"]
    assert answer["as_of"] == AS_OF + 2


async def test_the_docs_are_served_from_here_and_keep_to_their_policy(site: Site) -> None:
    page: HttpResponse = await site.client.get("/api/docs")
    assert page.status_code == 200
    text = page.content.decode()
    assert "//" not in text.replace("<!doctype", ""), "nothing from another host"
    assert "<style" not in text and "style=" not in text and "onload" not in text
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy and "connect-src 'self'" in policy
    assert "unsafe" not in policy
    for asset in ("ninja/swagger-ui.css", "ninja/swagger-ui-bundle.js", "api/docs.js"):
        assert re.search(rf'"/static/[0-9a-f]+/{re.escape(asset)}"', text)
        assert finders.find(asset) is not None
    assert (await site.client.get("/api/openapi.json")).status_code == 200
