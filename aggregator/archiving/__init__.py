"""The archiver: writes every swap to ClickHouse exactly once."""
