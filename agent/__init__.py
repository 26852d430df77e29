"""What runs on a host: compile the spec, observe, apply the difference, report."""
