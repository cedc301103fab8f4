"""The read-only checks of `manage.py doctor`, one module per engine."""
