"""Publishing events for demos, tests and benchmarks: recorded ones from files, or synthetic ones.

Knows the wire format of DESIGN 3 as a producer does, and nothing of how the service reads it.
"""
