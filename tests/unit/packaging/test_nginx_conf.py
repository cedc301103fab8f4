"""nginx.conf is valid, hides internal addresses, and agrees with the service's limits."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import crossplane
import pytest
from crossplane.analyzer import DIRECTIVES

from aggregator.runtime.config import Config, duration_ms
from tests.unit.packaging.files import ROOT, services

Directive = dict[str, Any]


@pytest.fixture(scope="module")
def conf() -> list[Directive]:
    path = ROOT / "infra/nginx/nginx.conf"
    result = crossplane.parse(str(path), single=True, catch_errors=False)
    assert result["status"] == "ok"
    parsed: list[Directive] = result["config"][0]["parsed"]
    return parsed


def test_every_directive_is_one_of_nginx(conf: list[Directive]) -> None:
    unknown = []
    inside = list(conf)
    while inside:
        directive = inside.pop()
        unknown += [directive["directive"]] * (directive["directive"] not in DIRECTIVES)
        if directive["directive"] != "map":  # holds values, not directives
            inside += directive.get("block", [])
    assert unknown == []


def block(inside: list[Directive], *path: tuple[str, ...]) -> list[Directive]:
    for directive, *args in path:
        inside = next(
            d["block"] for d in inside if (d["directive"], d["args"]) == (directive, args)
        )
    return inside


def values(inside: list[Directive], directive: str) -> list[list[str]]:
    return [d["args"] for d in inside if d["directive"] == directive]


def default(env: str) -> str:
    spec = next(f for f in fields(Config) if f.metadata["env"] == env)
    text: str = spec.metadata["default"]
    return text


@pytest.fixture
def server(conf: list[Directive]) -> list[Directive]:
    return block(conf, ("http",), ("server",))


def test_its_limits_are_those_of_the_service(server: list[Directive]) -> None:
    assert values(server, "client_max_body_size") == [[default("BODY_LIMIT")]]
    for directive in ("client_header_timeout", "client_body_timeout"):
        [[text]] = values(server, directive)
        assert duration_ms(text) == duration_ms(default("REQUEST_WITHIN"))


def test_what_a_client_says_of_itself_is_not_passed_on(server: list[Directive]) -> None:
    headers = dict(values(server, "proxy_set_header"))
    assert headers["X-Forwarded-For"] == "$remote_addr"
    assert headers["X-Forwarded-Proto"] == "$scheme"
    # A location that sets a header would not inherit these.
    for location in (d["block"] for d in server if d["directive"] == "location"):
        assert values(location, "proxy_set_header") == []


@pytest.mark.parametrize("path", [("=", "/metrics"), ("/debug/",)])
def test_what_is_for_those_inside_is_not_there(server: list[Directive], path: tuple[str]) -> None:
    assert values(block(server, ("location", *path)), "return") == [["404"]]


def test_a_websocket_passes_and_is_not_cut_while_it_is_silent(server: list[Directive]) -> None:
    headers = dict(values(server, "proxy_set_header"))
    assert headers["Upgrade"] == "$http_upgrade"
    socket = block(server, ("location", "=", "/ws"))
    assert values(socket, "proxy_buffering") == [["off"]]
    [[timeout]] = values(socket, "proxy_read_timeout")
    # A client may request a flush only every 10 s.
    assert duration_ms(timeout) > 3 * 10_000


def test_it_finds_the_web_nodes(conf: list[Directive], server: list[Directive]) -> None:
    web = services()["web"]["command"]
    [[address, *options]] = values(block(conf, ("http",), ("upstream", "web")), "server")
    assert address == f"web:{web[web.index('-p') + 1]}"
    assert "resolve" in options  # else nodes that are added later get nothing
    [published] = services()["nginx"]["ports"]
    assert values(server, "listen") == [[published.rpartition(":")[2]]]


def test_an_answer_takes_no_node_out(conf: list[Directive], server: list[Directive]) -> None:
    [[_, *options]] = values(block(conf, ("http",), ("upstream", "web")), "server")
    assert "max_fails=0" in options
    [[*tried]] = values(block(server, ("location", "/")), "proxy_next_upstream")
    assert tried == ["error", "timeout"]


def test_it_writes_only_where_it_may(conf: list[Directive]) -> None:
    http = block(conf, ("http",))
    paths = [args[0] for d in http if (args := d["args"]) and d["directive"].endswith("_temp_path")]
    assert len(paths) == 5
    assert values(conf, "pid") == [["/tmp/nginx.pid"]]
    assert all(Path("/tmp") in Path(path).parents for path in paths)
