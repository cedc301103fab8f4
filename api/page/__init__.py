"""The live dashboard: one page at `/`, its templates and its static files."""
