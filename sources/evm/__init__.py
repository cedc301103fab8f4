"""Swaps of EVM chains: blocks are followed by parent hash, logs are read by block hash."""
