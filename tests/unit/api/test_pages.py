"""The dashboard's page, static files, unknown addresses and probes: cached, cheap and charged."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.http import HttpResponse
from django.templatetags.static import static

from api.page import files
from tests.unit.api.rest_site import Site, body, filled, problem

FOREVER = "public, max-age=31536000, immutable"
FAR: dict[str, str] = {"X-Forwarded-For": "203.0.113.9"}  # through a proxy
PATHS = ("/", "/tokens/ethereum:0xaa", "/static/page/main.js", "/nothing", "/static/nothing.js")


async def get(site: Site, path: str, **headers: str) -> HttpResponse:
    answer: HttpResponse = await site.client.get(path, headers=headers)
    return answer


@pytest.mark.parametrize("path", [*PATHS, "/healthz", "/readyz", "/readyz/node", "/admin/login/"])
async def test_an_address_that_spent_its_bucket_is_refused_everywhere(
    make_site: Callable[..., Site], path: str
) -> None:
    site = make_site(RATE_LIMIT_IP="1", RATE_BURST_IP="3")
    for left in (2, 1, 0):
        answer = await get(site, "/static/api/icon.svg", **FAR)
        assert (answer.status_code, answer.headers["X-RateLimit-Remaining"]) == (200, str(left))
    refused = await get(site, path, **FAR)
    problem(refused, 429, "rate_limited")
    assert int(refused.headers["Retry-After"]) >= 1
    site.now_ms += 3_000
    assert (await get(site, "/static/api/icon.svg", **FAR)).status_code == 200


@pytest.mark.parametrize("path", [*PATHS, "/healthz", "/readyz/node", "/api/nothing"])
async def test_each_address_is_charged(make_site: Callable[..., Site], path: str) -> None:
    site = make_site(RATE_BURST_IP="50")
    assert (await get(site, path, **FAR)).headers["X-RateLimit-Remaining"] == "49"


async def test_a_preflight_and_a_wrong_method_are_charged(make_site: Callable[..., Site]) -> None:
    site = make_site(RATE_BURST_IP="50", CORS_ALLOWED_ORIGINS="https://a.example")
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    preflight: HttpResponse = await site.client.options("/api/overview", headers=asked)
    assert (preflight.status_code, preflight.headers["X-RateLimit-Remaining"]) == (204, "49")
    wrong: HttpResponse = await site.client.post("/api/overview")
    assert (wrong.status_code, wrong.headers["X-RateLimit-Remaining"]) == (405, "48")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/readyz/node"])
async def test_a_probe_from_inside_is_never_refused(
    make_site: Callable[..., Site], path: str
) -> None:
    site = make_site(RATE_LIMIT_IP="1", RATE_BURST_IP="1")
    statuses = {(await get(site, path)).status_code for _ in range(5)}
    assert len(statuses) == 1 and 429 not in statuses


async def test_a_file_at_its_versioned_address_is_immutable(site: Site) -> None:
    address = static("page/main.js")
    assert re.fullmatch(r"/static/[0-9a-f]{12}/page/main\.js", address)
    page = (await get(site, "/")).content.decode()
    assert f'src="{address}"' in page and "nonce" not in page
    answer = await get(site, address, **{"Accept-Encoding": "gzip"})
    assert answer.headers["Cache-Control"] == FOREVER
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    plain = await get(site, address)
    assert gzip.decompress(answer.content) == plain.content
    assert int(plain.headers["Content-Length"]) == len(plain.content)


@pytest.mark.parametrize("before", ["", "0123456789ab/"])
async def test_a_file_at_any_other_address_is_revalidated(site: Site, before: str) -> None:
    answer = await get(site, f"/static/{before}page/main.js")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-cache")
    known = {"If-None-Match": answer.headers["ETag"]}
    assert (await get(site, f"/static/{before}page/main.js", **known)).status_code == 304


async def test_the_page_is_revalidated_each_time(site: Site) -> None:
    answer = await get(site, "/")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "script-src 'self';" in answer.headers["Content-Security-Policy"]
    known = {"If-None-Match": answer.headers["ETag"]}
    assert (await get(site, "/tokens/a:1", **known)).status_code == 304
    refused: HttpResponse = await site.client.post("/")
    assert refused.status_code == 405


@pytest.mark.parametrize("path", ["/nothing", "/static/", "/static/page/../views.py"])
async def test_an_unknown_address_is_a_page(site: Site, path: str) -> None:
    answer = await get(site, path)
    assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (404, "text/html")
    assert b"Nothing is at this address" in answer.content


def test_another_file_makes_another_release(tmp_path: Path, settings: Any) -> None:
    before = files._read()
    (tmp_path / "extra.css").write_text("a{}")
    settings.STATICFILES_DIRS = [tmp_path]
    after = files._read()
    assert "extra.css" in after.files and after.digest != before.digest


async def test_a_browser_on_plain_http_is_sent_to_tls_and_a_program_is_not(
    site: Site, settings: Any
) -> None:
    settings.SECURE_SSL_REDIRECT = True
    answer = await get(site, "/tokens/a:1?window=1h")
    assert answer.status_code == 301
    assert answer.headers["Location"] == "https://testserver/tokens/a:1?window=1h"
    assert (await get(site, "/healthz")).status_code == 200


async def test_a_node_is_ready_once_it_was_filled_whatever_becomes_of_partitions(
    site: Site,
) -> None:
    first = await get(site, "/readyz/node")
    assert first.status_code == 503
    assert [each.split()[0] for each in body(first)["reasons"]] == ["NATS", "the"]
    site.parts.feed.connected_once = True
    filled(site)
    assert body(await get(site, "/readyz/node")) == {"ready": True, "reasons": []}
    site.now_ms += 60_000  # every owner is silent now
    stale = await get(site, "/readyz")
    assert stale.status_code == 503 and "no heartbeat for 60.0 s" in stale.content.decode()
    assert (await get(site, "/readyz/node")).status_code == 200
