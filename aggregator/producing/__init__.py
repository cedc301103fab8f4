"""The one producer of swaps: the feed, the sources and the HTTP endpoint send through it."""
