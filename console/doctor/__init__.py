"""What `manage.py doctor` looks at, a module an engine; it changes nothing anywhere."""
