"""The token registry: what operators say of tokens, brought to every web node while it runs."""
