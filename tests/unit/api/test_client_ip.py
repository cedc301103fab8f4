"""The client address of a request: what a forged X-Forwarded-For can and cannot change."""

from __future__ import annotations

import pytest

from aggregator.runtime.config import Config, load
from aggregator.runtime.errors import ConfigError
from api.auth.client_ip import client_ip, forwarded_for, scope_ip

CONFIG: Config = load({"TRUSTED_PROXIES": "10.0.0.0/8, 2001:db8:ffff::/48, ::1"})
TRUSTED = CONFIG.trusted_proxies


@pytest.mark.parametrize(
    ("peer", "header", "expected"),
    [
        pytest.param("203.0.113.9", "", "203.0.113.9", id="no proxy"),
        pytest.param("203.0.113.9", "1.2.3.4", "203.0.113.9", id="forged by a client"),
        pytest.param("203.0.113.9", "10.0.0.1", "203.0.113.9", id="forged as a proxy"),
        pytest.param("203.0.113.9", "127.0.0.1, 10.0.0.1", "203.0.113.9", id="forged chain"),
        pytest.param("10.0.0.1", "203.0.113.9", "203.0.113.9", id="one proxy"),
        pytest.param("10.0.0.1", "1.2.3.4, 203.0.113.9", "203.0.113.9", id="forged before a proxy"),
        pytest.param(
            "10.0.0.1", "1.2.3.4, 203.0.113.9, 10.0.0.2", "203.0.113.9", id="two proxies and a lie"
        ),
        pytest.param("10.0.0.1", "10.9.9.9, 10.0.0.2", "10.9.9.9", id="a client inside"),
        pytest.param("10.0.0.1", "", "10.0.0.1", id="a proxy that says nothing"),
        pytest.param("10.0.0.1", "unknown", "10.0.0.1", id="a proxy that does not know"),
        pytest.param("10.0.0.1", "1.2.3.4, <script>", "10.0.0.1", id="no address at the end"),
        pytest.param("10.0.0.1", "1.2.3.4,", "10.0.0.1", id="an empty entry at the end"),
        pytest.param("10.0.0.1", "203.0.113.9:5123", "203.0.113.9", id="with a port"),
        pytest.param("10.0.0.1", "[2001:db8::1]:443", "2001:db8::", id="IPv6 with a port"),
        pytest.param("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::", id="IPv6 by its /64"),
        pytest.param("2001:db8:1:2::ffff", "", "2001:db8:1:2::", id="another of the same /64"),
        pytest.param("2001:db8:1:3::1", "", "2001:db8:1:3::", id="of another /64"),
        pytest.param("fe80::1%eth0", "", "fe80::", id="with a zone"),
        pytest.param("::ffff:203.0.113.9", "", "203.0.113.9", id="IPv4 inside IPv6"),
        pytest.param("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9", id="a proxy inside IPv6"),
        pytest.param("2001:db8:ffff::5", "203.0.113.9", "203.0.113.9", id="an IPv6 proxy"),
        pytest.param("10.0.0.1", "010.0.0.1", "10.0.0.1", id="octal is no address"),
        pytest.param("10.0.0.1", "3405803785", "10.0.0.1", id="a number is no address"),
        pytest.param("", "1.2.3.4", "local", id="a Unix socket"),
    ],
)
def test_client_ip(peer: str, header: str, expected: str) -> None:
    assert client_ip(peer, header, TRUSTED) == expected


def test_without_trusted_proxies_the_header_means_nothing() -> None:
    assert client_ip("10.0.0.1", "203.0.113.9", ()) == "10.0.0.1"


def test_a_very_long_header_is_read_from_its_end_only() -> None:
    chain = ", ".join(["10.0.0.2"] * 10_000 + ["203.0.113.9"])
    assert client_ip("10.0.0.1", chain, TRUSTED) == "203.0.113.9"
    all_proxies = ", ".join(["203.0.113.9"] + ["10.0.0.2"] * 10_000)
    assert client_ip("10.0.0.1", all_proxies, TRUSTED) == "10.0.0.2"


def test_the_lines_of_the_header_are_one_list() -> None:
    headers = [(b"x-forwarded-for", b"1.2.3.4"), (b"a", b"b"), (b"x-forwarded-for", b"5.6.7.8")]
    assert forwarded_for(headers) == "1.2.3.4,5.6.7.8"
    scope = {"client": ("10.0.0.1", 5), "headers": headers}
    assert scope_ip(scope, TRUSTED) == "5.6.7.8"
    assert scope_ip({"client": None, "headers": []}, TRUSTED) == "local"


@pytest.mark.parametrize("text", ["10.0.0.1/8", "localhost", "10.0.0.0/33", "10.0.0.0-10.0.0.9"])
def test_a_bad_network_is_refused_at_start(text: str) -> None:
    with pytest.raises(ConfigError, match="TRUSTED_PROXIES"):
        load({"TRUSTED_PROXIES": text})
