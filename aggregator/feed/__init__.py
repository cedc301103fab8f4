"""Publishes events for demos, tests and benchmarks: recorded events from files, or synthetic ones.

Knows the wire format of DESIGN 3 as a producer, and nothing of how the service reads it.
"""
