"""The migrations of `console`, by the app label of their tables."""
