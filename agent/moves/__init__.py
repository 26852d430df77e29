"""A running server on its way between hosts: departure, arrival, where it is meanwhile."""
