"""The operators' Django app: models, admin pages, the site, `doctor`."""
