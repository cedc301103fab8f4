"""The archive in ClickHouse: its schema, its writer and its readers."""
