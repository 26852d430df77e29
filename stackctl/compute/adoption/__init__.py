"""Domains that libvirt has already become servers, as they run."""
