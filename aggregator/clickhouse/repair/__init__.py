"""Compare the archive with itself and rebuild what differs."""
