"""The aggregator: each swap into the windows of its partition, and the windows out to readers."""
