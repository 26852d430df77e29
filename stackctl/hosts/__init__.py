"""Registering, preparing and changing hosts."""
