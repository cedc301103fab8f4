"""Compares the archive with itself and rebuilds what differs."""
