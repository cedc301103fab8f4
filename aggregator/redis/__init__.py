"""Redis: snapshots of each partition's state, and saved board rows."""
