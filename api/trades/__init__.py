"""Live streams of trades and candles of one token, as web nodes follow them."""
