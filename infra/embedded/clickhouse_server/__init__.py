"""A ClickHouse server in one process: the native protocol in front of the engine of `chdb`.

`python -m infra.embedded.clickhouse_server` serves one directory. It speaks the protocol of
ClickHouse's Python driver, and refuses by name what it cannot do. Knows nothing of the embedded
stack.
"""
