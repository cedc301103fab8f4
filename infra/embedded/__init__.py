"""The embedded stack: real engines from Python wheels, for a laptop, a demo and the tests.

No Docker, no root, no system Java. `Stack` starts them in one directory and names their addresses;
`python -m infra.embedded` is the same from a shell. Knows nothing of the service that uses it.
"""
