"""Which pages may connect."""

from __future__ import annotations

import pytest

from api.auth.origins import Origins


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        pytest.param(None, "swaps.example", True, id="a program"),
        pytest.param("https://app.example", "swaps.example", True, id="listed"),
        pytest.param("HTTPS://APP.example:443", "swaps.example", True, id="listed, spelled out"),
        pytest.param("http://app.example", "swaps.example", False, id="another scheme"),
        pytest.param("https://app.example:8443", "swaps.example", False, id="another port"),
        pytest.param("https://app.example.evil", "swaps.example", False, id="a longer name"),
        pytest.param("https://evil-app.example", "swaps.example", False, id="a name with more"),
        pytest.param("http://local.test:3000", "swaps.example", True, id="listed with a port"),
        pytest.param("https://swaps.example", "swaps.example", True, id="our own"),
        pytest.param("http://127.0.0.1:8000", "127.0.0.1:8000", True, id="our own with a port"),
        pytest.param("http://127.0.0.1:9000", "127.0.0.1:8000", False, id="another port of ours"),
        pytest.param("https://swaps.example", None, False, id="no host"),
        pytest.param("null", "swaps.example", False, id="a sandboxed page"),
        pytest.param("", "swaps.example", False, id="empty"),
        pytest.param("https://app.example:x", "swaps.example", False, id="nonsense"),
        pytest.param("file:///etc", "swaps.example", False, id="a file"),
    ],
)
def test_the_allow_list(origin: str | None, host: str | None, allowed: bool) -> None:
    origins = Origins(["https://app.example", "http://local.test:3000", "not an origin"])
    assert origins.allow(origin, host) is allowed


def test_a_star_allows_any() -> None:
    assert Origins(["*"]).allow("https://evil.example", "swaps.example")
