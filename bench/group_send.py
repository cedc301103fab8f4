"""The peer of bench.fanout that uses Channels' `group_send` over Redis.

    python -m daphne bench.group_send:application      and      python -m bench.group_send TOKENS MS

One group per token and one frame per message, as in the Channels tutorial. Not part of the product.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import django
import msgspec
from django.conf import settings

settings.configure(
    SECRET_KEY="of-a-benchmark",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
        }
    },
)
django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402

from bench.owner import patch  # noqa: E402


class Consumer(AsyncJsonWebsocketConsumer):
    """Joins a group for each token that the client names."""

    async def connect(self) -> None:
        self.groups_joined: list[str] = []
        await self.accept()

    async def receive_json(self, content: dict[str, Any], **_: Any) -> None:
        for number in content["tokens"]:
            self.groups_joined.append(f"token-{number}")
            await self.channel_layer.group_add(f"token-{number}", self.channel_name)

    async def token_patch(self, event: dict[str, Any]) -> None:
        await self.send_json(event["data"])

    async def disconnect(self, _code: int) -> None:
        for group in self.groups_joined:
            await self.channel_layer.group_discard(group, self.channel_name)


settings.ROOT_URLCONF = "bench.group_send"
urlpatterns: list[Any] = []
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("ws", Consumer.as_asgi())]),
    }
)


async def publish(tokens: int, every_s: float) -> None:
    """Send every token's patch to its group at a fixed interval."""
    layer = get_channel_layer()
    seq, due = 0, time.time()
    while True:
        for number in range(tokens):
            seq += 1
            data = msgspec.to_builtins(patch(number, seq, int(due * 1_000)))
            await layer.group_send(f"token-{number}", {"type": "token.patch", "data": data})
        due += every_s
        await asyncio.sleep(max(0, due - time.time()))


if __name__ == "__main__":
    asyncio.run(publish(int(sys.argv[1]), int(sys.argv[2]) / 1_000))
