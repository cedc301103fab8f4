"""Settings, errors, metrics, clocks and what else every process needs; knows no engine."""
