"""The board: what this web node shows, kept equal to what the partitions' owners publish."""
