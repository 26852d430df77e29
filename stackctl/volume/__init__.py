"""Volumes: disks that live longer than a server."""
