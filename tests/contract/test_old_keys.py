"""`manage.py delete_old_keys` deletes keys of older versions and no others."""

from __future__ import annotations

import io
import secrets
from pathlib import Path

import pytest
import redis
from django.core.management import CommandError, call_command
from django.test import override_settings

from aggregator.contracts.names import block_key, board_keys, snapshot_keys
from aggregator.runtime.config import load
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack

pytestmark = pytest.mark.engines

MARKERS = [
    *(b"dedupe:" + secrets.token_bytes(16) for _ in range(3_000)),
    b"dedupe:{a:1}:123456789x",
    b"dedupe:" + b"\n" * 16,
    b"dedupe:{" + b"\xff" * 15,
]
OLD = [
    *("snap:raw-swaps:0:head", "snap:a.b_c:12:sections", "snap:raw-swaps:0:staged"),
    *("board:raw-swaps:0:head", "board:raw-swaps:3:rows"),
    *("checkin:raw-swaps", "archive:raw-swaps", "archive:raw-swaps:7", "run:token"),
]
NEW = [
    *snapshot_keys("raw-swaps", 0),
    *board_keys("raw-swaps", 0),
    block_key("raw-swaps", 0, 5),
    block_key("a", 1, 1234567890),  # as long as a marker
    *(b"rl:1.2.3.4", b"auth:state", b"registry:revision", b"archive", b"archive:a:b:c", b"other"),
]


def run(url: str, *options: str) -> str:
    said = io.StringIO()
    with override_settings(SWAPS=load({"REDIS_URL": url})):
        call_command("delete_old_keys", *options, stdout=said)
    return said.getvalue()


def test_only_keys_of_older_versions_are_deleted(tmp_path: Path) -> None:
    assert len(block_key("a", 1, 1234567890)) == len(MARKERS[0])
    with (
        Stack(tmp_path, only=(Redis,)) as stack,
        redis.Redis.from_url(stack.redis.url) as admin,
    ):
        for key in [*MARKERS, *OLD, *NEW]:
            admin.set(key, "x")
        said = run(stack.redis.url)
        assert f"markers: {len(MARKERS)} found" in said
        assert "nothing was deleted" in said
        assert admin.dbsize() == len(MARKERS) + len(OLD) + len(NEW)
        said = run(stack.redis.url, "--delete")
        assert "snapshots: 3 deleted\nboard rows: 2 deleted\ncheck-ins: 4 deleted" in said
        assert set(admin.keys()) == set(NEW)
        assert "markers: 0 found" in run(stack.redis.url)


def test_a_redis_that_does_not_answer_is_reported() -> None:
    with pytest.raises(CommandError, match="redis"):
        run("redis://127.0.0.1:1/0")
