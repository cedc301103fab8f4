"""Compiled passes over plain ASCII JSON; what they cannot decide goes to `rules`."""
