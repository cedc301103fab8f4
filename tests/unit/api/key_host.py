"""An issuer's JWKS host without a network, which counts its requests."""

from __future__ import annotations

import json
from typing import Any

from aggregator.runtime.errors import Retry


class KeyHost:
    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.down = False

    async def fetch(self, _url: str) -> bytes:
        self.asked += 1
        if self.down:
            raise Retry("connection refused")
        return json.dumps({"keys": self.keys}).encode()
