"""Reads swaps from Kafka, counts each exactly once in rolling windows, publishes every change."""
