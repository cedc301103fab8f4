"""The one way into the swap topic: an idempotent producer for feeds, sources and HTTP.

`producer.py` is for a loop that polls, `publisher.py` for asyncio. Neither knows what records mean.
"""
