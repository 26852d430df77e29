"""Servers change their host, or have none for a while: while they run, switched off, for good."""
