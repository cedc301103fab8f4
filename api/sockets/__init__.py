"""The WebSocket side of a web node: sockets, topics, subscriptions, and when each is sent what."""
