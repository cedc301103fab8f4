"""The one Django app for operators: models, admin pages, the admin site and `doctor`."""
