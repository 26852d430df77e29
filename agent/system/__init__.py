"""Thin typed wrappers: the only importers of subprocess, libvirt and pyroute2."""
