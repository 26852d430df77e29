"""Servers: booting, actions, placement."""
