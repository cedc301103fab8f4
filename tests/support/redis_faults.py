"""Tools for tests in which Redis loses data or changes its role: a name for it, and a replica."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.support.balancer import Balancer
from tests.support.loop_thread import LoopThread
from tests.support.processes import wait_until


class Pair:
    """Two Redis servers, and the name of the one that is the master.

    As with a DNS name that follows a failover, a new connection to `url` reaches the server that
    `point_at` named last, and an open connection stays where it is.
    """

    def __init__(self, first: Redis, second: Redis, balancer: Balancer) -> None:
        self.first, self.second = first, second
        self._balancer = balancer
        self.clients = {each.port: redis.Redis.from_url(each.url) for each in (first, second)}

    @property
    def url(self) -> str:
        """The name's URL."""
        return f"redis://127.0.0.1:{self._balancer.port}/0"

    def client(self, server: Redis) -> redis.Redis:
        """A client of that very server."""
        return self.clients[server.port]

    def point_at(self, server: Redis) -> None:
        """Have new connections go to the server."""
        self._balancer.ports = [server.port]

    def demote(self, server: Redis, master: Redis) -> None:
        """Make the server a replica, and wait until it holds what its master holds."""
        client, other = self.client(server), self.client(master)
        client.replicaof("127.0.0.1", master.port)

        def synchronized() -> bool:
            here, there = client.info("replication"), other.info("replication")
            return (
                here.get("master_link_status") == "up"
                and here["slave_repl_offset"] >= there["master_repl_offset"]
            )

        wait_until(synchronized, 30, "the replica's synchronization")

    def promote(self, server: Redis) -> None:
        """Make the replica a master."""
        self.client(server).replicaof("NO", "ONE")


@contextmanager
def redis_pair(directory: Path) -> Iterator[Pair]:
    """Two masters; the name is the first one's."""
    with (
        LoopThread("redis-name") as names,
        Stack(directory / "first", only=(Redis,)) as first,
        Stack(directory / "second", only=(Redis,)) as second,
    ):
        balancer = Balancer([first.redis.port])
        names.call(balancer.start())
        pair = Pair(first.redis, second.redis, balancer)
        for client in pair.clients.values():
            # A master waits so long for more replicas before it sends its data.
            client.config_set("repl-diskless-sync-delay", 0)
        try:
            yield pair
        finally:
            for client in pair.clients.values():
                client.close()
            names.call(balancer.stop())
