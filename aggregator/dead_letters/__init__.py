"""Messages that cannot be counted: sent to their topic, read back, replayed."""
