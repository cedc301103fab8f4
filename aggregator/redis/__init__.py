"""Redis: the markers that make each swap count once."""
