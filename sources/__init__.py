"""Sources: processes that bring live swaps of chains and exchanges into Kafka (DESIGN 15).

One process reads one source. It may use the contracts, settings, metrics, topics and producer of
`aggregator`; nothing of `aggregator` imports a source.
"""
