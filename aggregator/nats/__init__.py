"""What the aggregator sends to web nodes over NATS: patches, heartbeats, trades and answers."""
