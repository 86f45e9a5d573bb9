"""ExportedNetwork models: how they are written, how they are opened, and that both agree with the network they came from."""
