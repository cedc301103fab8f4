"""A chain on this machine: anvil with real Uniswap v2, v3 and v4, traders and reorganisations.

Stands on `infra.embedded` and, as that, knows of the service only its command lines.
"""
