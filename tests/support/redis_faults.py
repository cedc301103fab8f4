"""Tools for tests in which Redis loses data or changes its role: a name for it, and a replica."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.support.balancer import Balancer
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
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="redis-name")
    thread.start()
    with (
        Stack(directory / "first", only=(Redis,)) as first,
        Stack(directory / "second", only=(Redis,)) as second,
    ):
        balancer = Balancer([first.redis.port])
        asyncio.run_coroutine_threadsafe(balancer.start(), loop).result(10)
        pair = Pair(first.redis, second.redis, balancer)
        for client in pair.clients.values():
            # A master waits so long for more replicas before it sends its data.
            client.config_set("repl-diskless-sync-delay", 0)
        try:
            yield pair
        finally:
            for client in pair.clients.values():
                client.close()
            asyncio.run_coroutine_threadsafe(_end(balancer), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()


async def _end(balancer: Balancer) -> None:
    """Stop the balancer, and wait until its connections are closed."""
    balancer.stop()
    connecting = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*connecting, return_exceptions=True)
    balancer.stop()
    # An aborted transport is closed in the next turn of the loop.
    for _ in range(2):
        await asyncio.sleep(0)
