"""The ten busiest tokens of the last hour, live. Needs WEB_URL and TOKEN: see clients/README.md."""

import asyncio
import os

from swapclient import Client, OverviewUpdate


async def main() -> None:
    async with Client(os.environ["WEB_URL"], token=os.environ["TOKEN"]) as client:
        async for update in client.subscribe("overview", window="1h", limit=10):
            if isinstance(update, OverviewUpdate):
                for row in update.overview.tokens:
                    print(row.token_id, row.windows["1h"].volume_usd)  # noqa: T201


asyncio.run(main())
