"""Profiles of a running process: where its time and memory go, for pprof and as folded lines."""
