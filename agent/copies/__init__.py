"""Copies of disks: of guests that run, for images and volumes, and from host to host."""
