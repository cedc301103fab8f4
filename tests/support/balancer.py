"""A TCP balancer in front of web nodes, for tests."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from tests.support.tcp_proxy import TcpProxy


class Balancer(TcpProxy):
    """Forwards each connection to a random node that accepts it."""

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__()
        self.ports = list(ports)
        """The ports of the nodes that get connections now."""

    def targets(self) -> Iterable[tuple[str, int]]:
        """Return the nodes in a random order."""
        return [("127.0.0.1", port) for port in random.sample(self.ports, len(self.ports))]
