"""Profiles of a running process: where its time and its memory go, for pprof and as a picture."""
