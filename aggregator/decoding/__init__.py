"""Decodes Kafka messages to swaps; `rules` holds every rule of the event."""
