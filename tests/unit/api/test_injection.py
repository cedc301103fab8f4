"""No parameter of the API becomes a metric's name or label, a header or a fault of ours."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote, urlencode

import pytest
from prometheus_client import REGISTRY, generate_latest

from tests.unit.api.injections import MARK, PARAMETERS, PAYLOADS
from tests.unit.api.rest_site import Site, body, filled


def test_every_parameter_that_is_described_is_attacked() -> None:
    import swapsite.urls  # noqa: F401 - the schema needs the site's routes
    from api.http.routes import api

    described = {
        path.replace("{token_id}", "{}"): {
            each["name"] for each in methods["get"].get("parameters", ()) if each["in"] == "query"
        }
        for path, methods in api.get_openapi_schema()["paths"].items()
        if "get" in methods
    }
    assert len(described) == 7
    for path, names in described.items():
        assert names == set(PARAMETERS[path]), path


@pytest.mark.parametrize("path", PARAMETERS)
async def test_what_a_caller_writes_stays_text(make_site: Callable[..., Site], path: str) -> None:
    site = make_site(RATE_BURST="100000", RATE_BURST_IP="100000")
    filled(site)
    asked = [path.format(quote(payload, safe="")) for payload in PAYLOADS if "{}" in path]
    plain = path.format(quote("ethereum:0xaa", safe=""))
    names = (*PARAMETERS[path], "unknown")
    asked += [f"{plain}?{urlencode({name: each})}" for name in names for each in PAYLOADS]
    asked += [f"{plain}?{urlencode({each: '1'})}" for each in PAYLOADS]
    token = site.token("stats:read history:read ops:read")
    for address in asked:
        answer = await site.get(address, Authorization=f"Bearer {token}")
        assert answer.status_code in {200, 404, 422, 503}, (address, answer.content)
        assert answer.status_code != 503 or body(answer)["code"] == "history_unavailable"
        assert "X-Injected" not in answer.headers
        assert not any(MARK in f"{name}{value}" for name, value in answer.headers.items())
    metrics = generate_latest(REGISTRY).decode()
    assert "swaps_" in metrics
    assert MARK not in metrics
