"""History queries: answers from ClickHouse, joined with the newest trades in memory."""
