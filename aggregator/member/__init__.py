"""A member of a Kafka consumer group: the log, its positions, topics and fencing."""
