"""What operators run: host preparation, clusters, scripts, timers."""
