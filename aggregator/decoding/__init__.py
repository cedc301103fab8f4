"""From the bytes of a Kafka message to swaps; every rule of the event is in `rules`."""
