"""The archive in ClickHouse: its schema, the writer, the readers."""
