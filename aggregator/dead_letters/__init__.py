"""Messages that cannot be counted: sent to the dead-letter topic, read back, replayed."""
