"""Management commands of the web node."""
