"""The live dashboard: the page at `/`, its templates and its static files."""
