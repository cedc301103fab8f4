"""The web side: a board of the newest numbers, served over REST (and WebSocket)."""
