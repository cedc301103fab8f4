"""The ids that a partition has decided, as part of its state: pure, no input or output.

`docs/exactly-once.md` has the rules and the table of transitions; `tests/spec/seen.py` states them
in plain Python.
"""
