"""Adapters to the stores; one package an engine."""
