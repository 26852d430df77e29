"""Thin typed wrappers around the engines; the only importers of subprocess, libvirt and pyroute2."""
