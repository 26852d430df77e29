"""What there is, seen: the graph of networks, who reaches whom, the way of one packet."""
