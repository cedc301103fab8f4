"""The token registry: symbols, names and flags that operators give to tokens, on every web node."""
