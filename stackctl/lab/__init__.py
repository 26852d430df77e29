"""A fleet of hosts in namespaces on this machine."""
