"""The WebSocket side of a web node: who listens to what, and what each is sent when."""
