"""Networks, subnets, ports and the allocation of their addresses."""
