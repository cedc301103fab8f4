"""A member of a Kafka consumer group: reading the log, positions, topics and fencing."""
