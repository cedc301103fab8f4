"""schemathesis against a web node that has everything: no 5xx, and answers as they are described.

The aggregator counts real swaps and the archive holds them, so that the happy answers are met too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import jsonschema
import pytest

from infra.embedded.stack import Stack
from tests.archived import archive
from tests.processes import wait_until
from tests.service import ORIGIN, Service, swap

pytestmark = pytest.mark.engines

WITHIN_S = 30
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,unsupported_method,"
    "allow_header_conformance,ignored_auth"
)
TOKEN_ID = "ethereum:T3"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Iterator[Service]:
    generous = dict.fromkeys(
        ("RATE_LIMIT", "RATE_BURST", "RATE_LIMIT_IP", "RATE_BURST_IP"), "100000"
    )
    directory = tmp_path_factory.mktemp("fuzzed")
    with (
        archive(stack.clickhouse.url) as kept,
        Service(directory, stack, CLICKHOUSE_URL=kept.url, **generous) as made,
    ):
        made.env["CLICKHOUSE_URL"] = kept.url
        topology = made.manage("ensure_topology")
        assert topology.returncode == 0, topology.stderr
        made.token = made.manage(
            "issue_token", "--sub", "fuzz", "--scope", "stats:read history:read ops:read"
        ).stdout.strip()
        made.aggregator()
        made.web()
        made.wait_ready(60)
        made.produce([swap(number) for number in range(70)])
        made.wait_trades(70)

        def archived() -> bool:
            answer = made.get(f"/api/tokens/{TOKEN_ID}/trades")
            return answer.status_code == 200 and len(answer.json()["trades"]) == 10

        wait_until(archived, 30, "the swaps are archived")
        yield made


def test_schemathesis(service: Service, tmp_path: Path) -> None:
    schema = service.get("/api/openapi.json").json()
    described = tmp_path / "openapi.json"
    described.write_text(json.dumps(schema))
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), "run", described,
            "--url", f"{ORIGIN}:{service.web_port}",
            "--header", f"Authorization:Bearer {service.token}",
            "--checks", CHECKS, "--phases", "examples,coverage,fuzzing",
            "--max-examples", "40", "--seed", "7", "--workers", "1", "--no-color",
            "--generation-database", "none", "--max-time", str(WITHIN_S),
        ],
        check=False,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name},
        capture_output=True,
        text=True,
        timeout=4 * WITHIN_S,
    )  # fmt: skip
    summary = done.stdout[done.stdout.rfind(" SUMMARY ") :]
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr
    assert service.token not in done.stdout
    print(summary)
    tested = re.search(r"Tested: (\d+)", summary)
    assert tested is not None and int(tested[1]) == len(schema["paths"]), summary
    assert service.get("/healthz").status_code == 200


def test_every_example_is_of_its_schema(service: Service) -> None:
    """Each answer and each problem has an example, and the example is what the schema says."""
    schema = service.get("/api/openapi.json").json()
    for path, methods in schema["paths"].items():
        for status, response in methods["get"]["responses"].items():
            if status == "304":
                assert "content" not in response
                continue
            assert response["content"], f"{path} {status}"
            for media in response["content"].values():
                given = media.get("examples", {"one": {"value": media.get("example")}})
                assert given, f"{path} {status} has no example"
                rule = {**media["schema"], "components": schema["components"]}
                for each in given.values():
                    jsonschema.validate(each["value"], rule)


def test_answers_are_of_their_schema(service: Service) -> None:
    schema = service.get("/api/openapi.json").json()
    asked: dict[str, dict[str, str]] = {path: {} for path in schema["paths"]}
    asked["/api/overview"] = {"window": "1h"}
    asked["/api/tokens/stats"] = {"ids": f"{TOKEN_ID},a:none"}
    for path, params in asked.items():
        answer = service.get(path.replace("{token_id}", TOKEN_ID), **params)
        assert answer.status_code == 200, answer.text
        content = schema["paths"][path]["get"]["responses"]["200"]["content"]
        rule = {**content["application/json"]["schema"], "components": schema["components"]}
        jsonschema.validate(answer.json(), rule)


def test_gzip_and_tags_over_the_wire(service: Service) -> None:
    url = f"{ORIGIN}:{service.web_port}/api/overview"
    headers = {"Authorization": f"Bearer {service.token}"}
    packed = httpx.get(url, headers={**headers, "Accept-Encoding": "gzip"})
    plain = httpx.get(url, headers={**headers, "Accept-Encoding": "identity"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.json()["tokens"]) == len(plain.json()["tokens"]) == 7
    head = httpx.head(url, headers=headers)
    assert (head.status_code, head.content) == (200, b"")
    stats = f"{ORIGIN}:{service.web_port}/api/tokens/{TOKEN_ID}/stats"
    first = httpx.get(stats, headers={**headers, "Accept-Encoding": "gzip"})
    again = httpx.get(stats, headers={**headers, "If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
