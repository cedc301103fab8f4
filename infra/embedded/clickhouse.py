"""ClickHouse: `infra.embedded.clickhouse_server` on the engine of the wheel chdb.

The storage policy and the users come from the same files that a real server gets.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import ClassVar, Final

from clickhouse_driver import Client
from clickhouse_driver.errors import Error

from infra.embedded import ports, wheels
from infra.embedded.engine import Engine
from infra.embedded.s3 import COLD_BUCKET, S3

_FILES: Final = Path(__file__).parents[1] / "clickhouse"
_SERVER: Final = Path(__file__).parent / "clickhouse_server"
_REPOSITORY: Final = Path(__file__).parents[2]


class ClickHouse(Engine):
    """Serves the native protocol; `cold` is the store of the volume cold, if there is one.

    Without it everything works except moves to the cold volume, which fail.
    """

    name: ClassVar[str] = "clickhouse"
    default_port: ClassVar[int] = 9010
    cold: S3 | None = None

    def prepare(self) -> None:
        super().prepare()
        wheels.require("chdb-core")
        (self.data / "config.d").mkdir(exist_ok=True)
        shutil.copyfile(_SERVER / "config.xml", self.data / "config.xml")
        shutil.copyfile(_FILES / "users.xml", self.data / "users.xml")
        shutil.copyfile(_FILES / "storage.xml", self.data / "config.d" / "storage.xml")

    def command(self) -> list[str | Path]:
        places: list[str | Path] = ["--data", self.data / "data"]
        places += ["--config", self.data / "config.xml"]
        server = [sys.executable, "-m", "infra.embedded.clickhouse_server"]
        return [*server, "--port", str(self.port), *places]

    def environment(self) -> dict[str, str]:
        store = self.cold.url if self.cold else f"http://{ports.HOST}:9"
        return {
            **os.environ,
            "PYTHONPATH": str(_REPOSITORY),
            "CLICKHOUSE_USERS": str(self.data / "users.xml"),
            "CLICKHOUSE_PASSWORD": "",
            "CLICKHOUSE_COLD_ENDPOINT": f"{store}/{COLD_BUCKET}/clickhouse/",
            "S3_ACCESS_KEY": self.cold.access_key if self.cold else "none",
            "S3_SECRET_KEY": self.cold.secret_key if self.cold else "none",
        }

    def ready(self) -> bool:
        with self.connect():
            pass  # the driver would log each try until the server listens
        client = Client(ports.HOST, self.port, connect_timeout=2, send_receive_timeout=2)
        try:
            return bool(client.execute("SELECT 1") == [(1,)])
        except (Error, EOFError):
            return False
        finally:
            client.disconnect()

    @property
    def url(self) -> str:
        """clickhouse://default:@host:port/default."""
        return f"clickhouse://default:@{self.address}/default"

    def env(self) -> dict[str, str]:
        return {"CLICKHOUSE_URL": self.url}
