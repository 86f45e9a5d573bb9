"""Exported models: write them, open them, and check that both agree with the network they come from."""
