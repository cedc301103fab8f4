"""What tests share: engines, processes, clients, oracles, readers of documents."""
