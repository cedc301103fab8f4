"""The archiver: each swap into ClickHouse exactly once."""
