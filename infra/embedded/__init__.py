"""The embedded stack: real engines from Python wheels, for a laptop, a demo and the tests.

Needs no Docker, no root and no system Java. `Stack` starts the engines in one directory and
publishes their addresses; `python -m infra.embedded` does the same from a shell. Must not know the
service that uses it.
"""
