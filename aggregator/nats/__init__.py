"""From the aggregator to the web nodes, over NATS: patches, heartbeats, answers to resyncs."""
