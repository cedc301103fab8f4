"""From Kafka messages to decoded swaps and dead letters."""
