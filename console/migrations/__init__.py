"""Migrations of the operators' tables, by the app label that they were made under."""
